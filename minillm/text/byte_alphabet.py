r"""256 characters that can be seen, one for each byte: how GPT-2's tokenizer writes bytes in its files."""

from minillm.text.byte_tokenizer import utf8_bytes


def _alphabet() -> str:
    r"""A byte that is a visible Latin-1 character stands for itself; the 68 others follow from U+0100 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return "".join(chr(byte if byte in visible else 0x100 + hidden.index(byte)) for byte in range(256))


BYTE_ALPHABET = _alphabet()
_BYTES = {character: byte for byte, character in enumerate(BYTE_ALPHABET)}


def spell_bytes(text: str) -> str:
    r"""Write the bytes of a text as visible characters; " hé" gives "ĠhÃ©".

    Args:
        text: any text.
    Returns: one character for each byte of its UTF-8, none of them white space.
    Raises:
        ValueError: if the text holds half of a surrogate pair.
    Source: Radford et al. 2019 (GPT-2), `bytes_to_unicode` of its published encoder.
    Lesson: 16.
    """
    return utf8_bytes(text).decode("latin-1").translate(BYTE_ALPHABET)


def read_spelling(spelling: str) -> bytes:
    r"""Undo `spell_bytes`, for any bytes, whether they are UTF-8 or not.

    Args:
        spelling: characters of the alphabet.
    Returns: one byte for each character.
    Raises:
        ValueError: if a character stands for no byte.
    Lesson: 16.
    """
    for i, character in enumerate(spelling):
        if character not in _BYTES:
            raise ValueError(
                f"spelling[{i}] is {character!r} in {spelling[:40]!r}, and stands for no byte; a token of byte-level "
                "BPE is written with the 256 characters of BYTE_ALPHABET")
    return bytes(_BYTES[character] for character in spelling)
