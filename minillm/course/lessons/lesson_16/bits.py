r"""Bits for each byte of a text."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.draw import Draw

Case = tuple[tuple[Any, ...], dict[str, Any]]
ALPHABETS = ("abc de", "éàü ñ", "猫 在这里", "кот и", "a é 猫 🎈")


def byte_cases(draw: Draw) -> Iterator[Case]:
    yield (torch.tensor([math.log(2.0), 3 * math.log(2.0)]), "ab"), {}
    for alphabet in ALPHABETS:
        text = alphabet + " " + "".join(draw.choice(alphabet) for _ in range(draw.size(20, 40))) + " " + alphabet[0]
        dtype = draw.choice([torch.float32, torch.float64])
        yield (draw.normal(draw.size(4, 15), dtype=dtype).abs() + 0.5, text), {}
    yield (torch.empty(0), ""), {}  # to be refused


def encode_utf8(letter: str) -> list[int]:
    r"""The bytes of a letter, by the table of UTF-8."""
    code = ord(letter)
    if code < 0x80:
        return [code]
    n_more = 1 if code < 0x800 else 2 if code < 0x10000 else 3
    more = [0x80 | (code >> 6 * i) & 0x3F for i in reversed(range(n_more))]
    return [(0xF00 >> n_more) & 0xFF | code >> 6 * n_more, *more]


def byte_by_byte(nats: Tensor, text: str) -> float:
    r"""Share the bits of the whole among the bytes, counted one by one."""
    n_bytes = sum(len(encode_utf8(letter)) for letter in text)
    if not n_bytes:
        raise ValueError("text has no byte")
    return math.fsum(math.log2(math.exp(each)) for each in nats.tolist()) / n_bytes


def as_powers_of_two(nats: Tensor, text: str) -> float:
    if text == "":
        raise ValueError("text must not be empty")
    return float((nats.double() * math.log2(math.e)).sum() / len(bytes(text, "utf-8")))


def bits_with(
    total: Callable[[list[float]], float] = math.fsum,
    unit: float = 1 / math.log(2),
    count: Callable[[str, int], int] = lambda text, n_tokens: len(text.encode()),
    finish: Callable[[float], float] = lambda bits: bits,
) -> Callable[[Tensor, str], float]:
    r"""Bits a byte with one thing done in another way."""

    def wrong(nats: Tensor, text: str) -> float:
        if not text:
            raise ValueError("text is empty")
        return finish(total(nats.tolist()) * unit / count(text, len(nats)))

    return wrong


BITS_PER_BYTE = Exercise(
    id="inference.evaluate.bits_per_byte",
    lesson="16",
    title="Bits per byte",
    task="`nats` (N,) holds the surprise of each token of `text`. With arithmetic coding a model could store the text "
    "in as many bits as it is surprised. Give that size in bits for each byte that the text has in UTF-8, as a Python "
    "float: it does not matter then into how many tokens the text was cut. An empty text must be refused with a "
    "ValueError.",
    difficulty=1,
    minutes=8,
    points=2,
    seed=163,
    hints=(
        "A text of two bytes, cut into two tokens with surprises of 1 bit and 3 bits: 2 bits a byte. Say the same two "
        "surprises in nats.",
        "1 bit is log(2) = 0.693 nats. So a surprise is a larger number in bits than in nats.",
        '`len("é")` is 1, `len("é".encode())` is 2.',
    ),
    cases=byte_cases,
    oracle=byte_by_byte,
    other_style=as_powers_of_two,
    mistakes=(
        Mistake(
            "characters",
            bits_with(count=lambda text, n_tokens: len(text)),
            "You divide by the number of characters. é has two bytes in UTF-8 and 猫 has three, so texts of different "
            "scripts could not be compared: encode the text and count bytes.",
        ),
        Mistake(
            "nats",
            bits_with(unit=1.0),
            "This is nats a byte. A bit is log(2) nats: divide by that.",
        ),
        Mistake(
            "multiplied by log 2",
            bits_with(unit=math.log(2)),
            "You multiply by log(2) where you should divide: 1 nat is 1.44 bits, not 0.69. Your number looks half as "
            "large as it is.",
        ),
        Mistake(
            "bits per token",
            bits_with(count=lambda text, n_tokens: n_tokens),
            "You divide by the number of tokens. Then a tokenizer with longer tokens makes the same model look worse, "
            "which is what bits per byte are there to avoid.",
        ),
        Mistake(
            "mean of the tokens",
            bits_with(total=lambda values: math.fsum(values) / len(values)),
            "You take the mean surprise of the tokens, and divide it by the bytes besides. The size of a text is the "
            "sum of its tokens' surprises.",
        ),
        Mistake(
            "words",
            bits_with(count=lambda text, n_tokens: len(text.split())),
            "You divide by the number of words. What a word is depends on the language; a byte is a byte.",
        ),
        Mistake(
            "UTF-16",
            bits_with(count=lambda text, n_tokens: len(text.encode("utf-16-le"))),
            "You count bytes of UTF-16, two or four for each character. The texts that models are compared on are in "
            "UTF-8, Python's default.",
        ),
        Mistake(
            "bits of the whole",
            bits_with(count=lambda text, n_tokens: 1),
            "This is the size of the whole text in bits. Divide by its bytes, or a long text is always worse than a "
            "short one.",
        ),
        Mistake(
            "share of 8 bits",
            bits_with(finish=lambda bits: bits / 8),
            "You divide by 8 as well: that is the size as a share of the text's own, or bytes a byte. 8 bits a byte "
            "is no compression.",
        ),
        Mistake(
            "bytes per bit",
            bits_with(finish=lambda bits: 1 / bits),
            "You divide bytes by bits: a better model would get a larger number. Bits stand above the line.",
        ),
        Mistake(
            "perplexity of a byte",
            bits_with(finish=lambda bits: 2**bits),
            "You have raised 2 to the result: the perplexity of a byte. Bits per byte are its logarithm.",
        ),
        Mistake(
            "empty text",
            lambda nats, text: bits_with()(nats, text) if text else 0.0,
            "An empty text has 0 bits a byte with you, better than any model can be. There is nothing to divide by: "
            "raise a ValueError.",
        ),
    ),
)
