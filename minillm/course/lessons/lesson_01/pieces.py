r"""Find the bug: text that is shown token by token."""

from collections.abc import Iterator, Sequence
from typing import Any

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.draw import Draw
from minillm.course.lessons.lesson_01.pairs import IDS

SIGNS = "aeiou xyz.,éßñЖωж你好世界吗的了中文模型汉字𝄞💡🙂🚀"


def piece_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    sign = draw.choice("你好世界吗的了中文模型汉字").encode()
    letter = draw.choice("abcxyz").encode()
    yield ([letter + sign[:1], sign[1:2], sign[2:] + letter],), {}
    yield ([letter, b"", sign],), {}
    yield ([sign + letter + sign[:2], sign[2:]],), {}
    for n in (6, 12, 20):
        data = "".join(draw.choice(SIGNS) for _ in range(n)).encode()
        edges = sorted(draw.size(0, len(data)) for _ in range(n))
        yield ([data[a:b] for a, b in zip([0, *edges], [*edges, len(data)], strict=True)],), {}
    yield ([],), {}


def by_whole_characters(token_bytes: Sequence[bytes]) -> list[str]:
    r"""Look how many characters of the finished text lie within the bytes so far."""
    text = b"".join(token_bytes).decode()
    shown, done, n_bytes = [], 0, 0
    for piece in token_bytes:
        n_bytes += len(piece)
        end = done
        while end < len(text) and len(text[: end + 1].encode()) <= n_bytes:
            end += 1
        shown.append(text[done:end])
        done = end
    return shown


def with_a_rest(token_bytes: Sequence[bytes]) -> list[str]:
    rest, shown = b"", []
    for piece in token_bytes:
        rest += piece
        complete = rest.decode("utf-8", errors="ignore")  # only the end of the rest can be broken
        rest = rest[len(complete.encode()) :]
        shown.append(complete)
    return shown


def one_by_one(token_bytes: Sequence[bytes], errors: str = "replace") -> list[str]:
    return [piece.decode("utf-8", errors=errors) for piece in token_bytes]


def all_so_far(token_bytes: Sequence[bytes]) -> list[str]:
    return [b"".join(token_bytes[: i + 1]).decode("utf-8", "ignore") for i in range(len(token_bytes))]


def marks_counted_as_shown(token_bytes: Sequence[bytes]) -> list[str]:
    shown, n_shown = [], 0
    for i in range(len(token_bytes)):
        text = b"".join(token_bytes[: i + 1]).decode("utf-8", "replace")
        shown.append(text[n_shown:])
        n_shown = len(text)
    return shown


def whole_rest_or_nothing(token_bytes: Sequence[bytes]) -> list[str]:
    rest, shown = b"", []
    for piece in token_bytes:
        rest += piece
        try:
            shown.append(rest.decode())
            rest = b""
        except UnicodeDecodeError:
            shown.append("")
    return shown


def all_at_the_end(token_bytes: Sequence[bytes]) -> list[str]:
    return [""] * (len(token_bytes) - 1) + [b"".join(token_bytes).decode()] if token_bytes else []


DECODE_PIECES = Exercise(
    id="text.streaming.decode_pieces",
    lesson="01",
    title="Find the bug",
    task="A chat shows its answer token by token. In English all is well; in Chinese there are black diamonds, �, all "
    "over the screen:\n\n```python\n"
    "def decode_pieces(token_bytes):\n"
    '    return [piece.decode("utf-8", errors="replace") for piece in token_bytes]\n'
    "```\n\n"
    "Say in a sentence what is wrong. Then write it so that each token shows what can be shown: the bytes of a "
    "character that is not complete yet wait for the rest, and everything before them appears at once.",
    difficulty=2,
    minutes=15,
    points=3,
    seed=28,
    hints=(
        '`"你".encode()` has three bytes. What does each of them decode to alone, and what the three together?',
        "Keep a rest of bytes that have come and could not be shown. What is left of it after each token?",
        '`errors="ignore"` drops an incomplete end. How many bytes of the rest did the decoded part use?',
        "Python has a decoder that remembers: look at `codecs.getincrementaldecoder`.",
    ),
    cases=piece_cases,
    oracle=by_whole_characters,
    other_style=with_a_rest,
    tolerance=IDS,
    mistakes=(
        Mistake(
            "each token by itself",
            one_by_one,
            "The bug is still there: each token is decoded by itself. A token is a piece of *bytes* and may hold a "
            "third of a character, which alone is no text.",
        ),
        Mistake(
            "broken bytes dropped",
            lambda token_bytes: one_by_one(token_bytes, "ignore"),
            "Now the diamonds are gone, and with them the characters: bytes that are incomplete in their token are "
            "dropped. They must be kept until the rest arrives.",
        ),
        Mistake(
            "everything shown again",
            all_so_far,
            "Each piece holds the whole text so far. Only what is new is asked for: joined, the pieces are the text.",
        ),
        Mistake(
            "diamonds counted as shown",
            marks_counted_as_shown,
            "You decode everything so far and show what is longer than before. But the � of an incomplete character "
            "has been counted as shown, so when the character is complete it never appears.",
        ),
        Mistake(
            "all or nothing",
            whole_rest_or_nothing,
            "A token may end one character and begin the next. You hold back both; the first is complete and can be "
            "shown. With bad luck nothing appears for a whole sentence.",
        ),
        Mistake(
            "all at the end",
            all_at_the_end,
            "You wait for the last token. Right, and no stream any more: each token must show what it can.",
        ),
        Mistake(
            "another alphabet",
            lambda token_bytes: [piece.decode("latin-1") for piece in token_bytes],
            "Latin-1 makes a character of each byte, so nothing is ever broken, and nothing is right beyond English: "
            "你 becomes ä½ and something that cannot be seen.",
        ),
    ),
)
