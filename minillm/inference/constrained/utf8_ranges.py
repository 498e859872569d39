r"""Ranges of characters as ranges of bytes: an automaton over bytes can read the tokens of every tokenizer."""

from collections.abc import Iterator

ByteRanges = tuple[tuple[int, int], ...]  # one (first, last) for each byte of a character

# What is written with 1, 2, 3 and 4 bytes; halves of surrogate pairs, between, are no characters.
_LENGTHS = ((0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF))


def utf8_ranges(first: int, last: int) -> Iterator[ByteRanges]:
    r"""Write the characters from `first` to `last` as a few products of byte ranges.

    `first` to `last` = U+00E9 to U+0101 gives [C3][A9-BF], [C4][80-81]: the characters of each product are those whose
    every byte lies in its range.

    Args:
        first: code point.
        last: code point, not less than first.
    Returns: an iterator over products; no two have a character in common.
    Source: the Unicode Standard, section 3.9, table 3-6; an automaton over the bytes of characters as in Cox 2010,
        Regular Expression Matching in the Wild, step 3.
    Lesson: 09.
    """
    for low, high in _LENGTHS:
        if max(first, low) <= min(last, high):
            yield from _products(max(first, low), min(last, high))


def _products(first: int, last: int) -> Iterator[ByteRanges]:
    r"""The same for characters of one length: cut until all bytes but the first differing one run from 80 to BF."""
    n_bytes = len(chr(first).encode())
    for n_free in range(1, n_bytes):  # from the right: the last n_free bytes, of six bits each
        mask = (1 << 6 * n_free) - 1
        if first | mask < last:  # first and last differ in an earlier byte: the bytes behind must be complete
            if first & mask:
                yield from _products(first, first | mask)
                yield from _products((first | mask) + 1, last)
                return
            if last & mask != mask:
                yield from _products(first, (last & ~mask) - 1)
                yield from _products(last & ~mask, last)
                return
    yield tuple(zip(chr(first).encode(), chr(last).encode(), strict=True))
