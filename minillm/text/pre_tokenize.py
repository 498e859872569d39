r"""Where a text is cut before its bytes are merged: as GPT-2 does it, and as SmolLM does it."""

import re
import unicodedata
from functools import cache

# What stands for the kinds of characters in the shape of a text: L a letter, N a number, ! what is neither, and a line
# break any white space but the space itself, for which a line break will do since patterns call both \s. Letters that
# follow an apostrophe in English (it's, don't, we'll, ...), the apostrophe and the space stand for themselves.
_THEMSELVES = frozenset(" 'strevmld")
_WHITE_SPACE = {*"\t\n\v\f\r\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000", *map(chr, range(0x2000, 0x200B))}
# Letters and numbers that came with Unicode 15 and 16: the tables of an older Python do not know them.
_NEW_LETTERS = (
    "1c89-1c8a a7cb-a7cd a7da-a7dc 105c0-105f3 10d4a-10d65 10d6f-10d85 10ec2-10ec4 1123f-11240 11380-11389 1138b "
    "1138e 11390-113b5 113b7 113d1 113d3 11bc0-11be0 11f02 11f04-11f10 11f12-11f33 1342f 13441-13446 13460-143fa "
    "16100-1611d 16d40-16d6c 18cff 1b132 1b155 1df25-1df2a 1e030-1e06d 1e4d0-1e4eb 1e5d0-1e5ed 1e5f0 2b739 "
    "2ebf0-2ee5d 31350-323af "
)
_NEW_NUMBERS = (
    "10d40-10d49 116d0-116e3 11bf0-11bf9 11f50-11f59 16130-16139 16d70-16d79 1ccf0-1ccf9 1d2c0-1d2d3 1e4f0-1e4f9 "
    "1e5f1-1e5fa "
)


def _in_ranges(ranges: str) -> frozenset[int]:
    ends = [[int(end, 16) for end in each.split("-")] for each in ranges.split()]
    return frozenset(code for each in ends for code in range(each[0], each[-1] + 1))


_LETTER_CODES, _NUMBER_CODES = _in_ranges(_NEW_LETTERS), _in_ranges(_NEW_NUMBERS)


@cache
def _sign(character: str) -> str:
    r"""What stands for a character in the shape of a text."""
    kind, code = unicodedata.category(character)[0], ord(character)
    if character in _THEMSELVES:
        return character
    if character in _WHITE_SPACE:
        return "\n"
    if kind == "L" or code in _LETTER_CODES:
        return "L"
    return "N" if kind == "N" or code in _NUMBER_CODES else "!"


# Matched against the shape. In both, a run of white space leaves its last character to the word behind it.
_PATTERNS = {
    "gpt-2": re.compile(r"'(?:[stmd]|re|ve|ll)| ?[Lstrevmld]+| ?N+| ?[!']+|\s+(?!\S)|\s+"),
    # Every number by itself, cut out before all else: so no space goes with it, and white space before it stays whole.
    "smollm": re.compile(r"'(?:[stmd]|re|ve|ll)| ?[Lstrevmld]+|N| ?[!']+|\s+(?![^\sN])|\s+"),
}
PRE_TOKENIZERS = tuple(_PATTERNS)


def pre_tokenize(text: str, rule: str) -> list[str]:
    r"""Cut a text into chunks that no token may cross.

    The text is first turned into its shape, a string of the same length with one sign for each kind of character; so a
    pattern of a few signs does what otherwise takes the Unicode tables in the pattern.

    Args:
        text: any text.
        rule: "gpt-2": letters, numbers or other marks, each with the space before it; white space; and what follows an
            apostrophe in English. "smollm": the same, but every digit by itself.
    Returns: the chunks; joined, they are the text again.
    Raises:
        ValueError: if the rule is unknown.
    Source: Radford et al. 2019, section 2.2 (GPT-2), and the pattern of its published encoder; Allal et al. 2025,
        SmolLM2. What is a letter is told by Unicode 16.
    Lesson: 16.
    """
    if rule not in _PATTERNS:
        raise ValueError(f"rule={rule!r}: a text can be cut by one of {sorted(_PATTERNS)}")
    shape = text.translate({ord(character): _sign(character) for character in set(text)})
    return [text[match.start() : match.end()] for match in _PATTERNS[rule].finditer(shape)]
