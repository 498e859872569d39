r"""Read a regular expression: from the pattern to a tree of four kinds of nodes."""

import re
from dataclasses import dataclass

Ranges = tuple[tuple[int, int], ...]  # code points, first and last of each run, sorted, apart from each other
LAST = 0x10FFFF
MOST_REPEATS = 1000


@dataclass(frozen=True)
class CharSet:
    r"""One character out of some.

    Args:
        ranges: which.
    Lesson: 09.
    """

    ranges: Ranges


@dataclass(frozen=True)
class InTurn:
    r"""All parts, one after the other.

    Args:
        parts: nodes; none at all matches the empty text.
    Lesson: 09.
    """

    parts: tuple["Node", ...]


@dataclass(frozen=True)
class OneOf:
    r"""Any one of the parts.

    Args:
        parts: nodes.
    Lesson: 09.
    """

    parts: tuple["Node", ...]


@dataclass(frozen=True)
class Repeated:
    r"""A part several times.

    Args:
        part: a node.
        least: how often at least.
        most: how often at most; None = without limit.
    Lesson: 09.
    """

    part: "Node"
    least: int
    most: int | None


Node = CharSet | InTurn | OneOf | Repeated


def merged(ranges: list[tuple[int, int]]) -> Ranges:
    r"""Sort ranges and join those that touch.

    Args:
        ranges: first and last code point of each, in any order.
    Returns: the same set of characters in order.
    Lesson: 09.
    """
    joined: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return tuple(joined)


def all_but(ranges: Ranges) -> Ranges:
    r"""All characters that are not in a set.

    Args:
        ranges: of the set, sorted and apart.
    Returns: ranges of the rest of Unicode.
    Lesson: 09.
    """
    edges = [-1, *(edge for first, last in ranges for edge in (first - 1, last)), LAST]
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return tuple((before + 1, last) for before, last in pairs if before < last)


DIGIT = ((48, 57),)
WORD = merged([(48, 57), (65, 90), (95, 95), (97, 122)])
SPACE = merged([(9, 13), (32, 32)])
CLASSES = {"d": DIGIT, "w": WORD, "s": SPACE, "D": all_but(DIGIT), "W": all_but(WORD), "S": all_but(SPACE)}
CONTROLS = {"n": 10, "t": 9, "r": 13, "f": 12, "v": 11, "a": 7}
_COUNT = re.compile(r"\{(?:(\d+)|(\d*),(\d*))\}")
_HEX = {"x": 2, "u": 4, "U": 8}


def parse_regex(pattern: str) -> Node:
    r"""Read a pattern in the syntax of Python's `re`, as far as an automaton can follow it.

    There are: characters, `.`, classes `[a-z]` and `[^...]`, `\d \w \s` and `\D \W \S` (over ASCII, as with re.ASCII),
    escapes, groups `(...)` and `(?:...)`, `|`, and the repeats `* + ? {m} {m,} {m,n}`. The pattern stands for the whole
    text, as in re.fullmatch, so `^` and `$` are not needed, and refused. What looks back or ahead is refused too.

    Args:
        pattern: the regular expression.
    Returns: its tree.
    Raises:
        ValueError: if the pattern is broken, or uses what is not in the list; the message names the place.
    Source: Kleene 1956, Representation of Events in Nerve Nets; the grammar of `re` without what is not regular.
    Lesson: 09.
    """
    reader = _Reader(pattern)
    node = reader.alternatives()
    if reader.at < len(pattern):
        reader.refuse("a closing bracket without an opening one; write \\) for the character itself")
    return node


class _Reader:
    r"""A place in a pattern, and one method for each rule of the grammar."""

    def __init__(self, pattern: str):
        self.pattern, self.at = pattern, 0

    def refuse(self, why: str):
        raise ValueError(f"pattern {self.pattern!r}, at character {self.at}: {why}")

    def follows(self, text: str) -> bool:
        r"""Step over `text` if it comes next, and say whether it did."""
        found = self.pattern.startswith(text, self.at)
        self.at += len(text) * found
        return found

    def take(self) -> str:
        if self.at >= len(self.pattern):
            self.refuse("the pattern ends too early")
        self.at += 1
        return self.pattern[self.at - 1]

    def alternatives(self) -> Node:
        parts = [self.sequence()]
        while self.follows("|"):
            parts.append(self.sequence())
        return parts[0] if len(parts) == 1 else OneOf(tuple(parts))

    def sequence(self) -> Node:
        parts = []
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            parts.append(self.repeated())
        return parts[0] if len(parts) == 1 else InTurn(tuple(parts))

    def repeated(self) -> Node:
        node = self.atom()
        counts = self.counts()
        if counts is None:
            return node
        self.follows("?")  # a lazy repeat matches the same whole texts
        if self.counts() is not None or self.follows("+"):
            self.refuse("a repeat of a repeat; put the first in a group (...)")
        least, most = counts
        if most is not None and most < least or max(least, most or 0) > MOST_REPEATS:
            self.refuse(f"a repeat from {least} to {most}; use m <= n <= {MOST_REPEATS} in {{m,n}}")
        return Repeated(node, least, most)

    def counts(self) -> tuple[int, int | None] | None:
        for sign, least, most in (("*", 0, None), ("+", 1, None), ("?", 0, 1)):
            if self.follows(sign):
                return least, most
        match = _COUNT.match(self.pattern, self.at)
        if not match:
            return None
        self.at = match.end()
        exactly, least, most = match.groups()
        if exactly:
            return int(exactly), int(exactly)
        return int(least or 0), int(most) if most else None

    def atom(self) -> Node:
        if self.follows("("):
            if self.follows("?") and not self.follows(":"):
                self.refuse("of the groups that begin with (? there is only (?:...)")
            node = self.alternatives()
            if not self.follows(")"):
                self.refuse("a group is not closed; write \\( for the character itself")
            return node
        if self.follows("["):
            return CharSet(self.char_class())
        if self.follows("."):
            return CharSet(all_but(((10, 10),)))
        if self.follows("\\"):
            return CharSet(self.escape())
        character = self.pattern[self.at]
        if character in "^$":
            self.refuse(f"{character} is not needed, the pattern stands for the whole text; write \\{character} for "
                        "the character itself")
        if character in "*+?" or _COUNT.match(self.pattern, self.at):
            self.refuse(f"{character} has nothing to repeat; write \\{character} for the character itself")
        self.at += 1
        return CharSet(((ord(character), ord(character)),))

    def escape(self) -> Ranges:
        letter = self.take()
        if letter in CLASSES:
            return CLASSES[letter]
        if letter in _HEX:
            digits = self.pattern[self.at : self.at + _HEX[letter]]
            if not re.fullmatch(rf"[0-9a-fA-F]{{{_HEX[letter]}}}", digits) or int(digits, 16) > LAST:
                self.refuse(f"\\{letter} takes {_HEX[letter]} hexadecimal digits")
            self.at += len(digits)
            return ((int(digits, 16),) * 2,)
        if letter.isascii() and letter.isalnum() and letter not in CONTROLS:
            self.refuse(f"\\{letter} is not known here: an automaton can't look back or at borders")
        return ((CONTROLS.get(letter, ord(letter)),) * 2,)

    def char_class(self) -> Ranges:
        negated = self.follows("^")
        ranges: list[tuple[int, int]] = []
        while not (self.follows("]") if ranges else False):
            first = self.member()
            if self.pattern.startswith("-", self.at) and not self.pattern.startswith("-]", self.at):
                self.at += 1
                last = self.member()
                if len(first) != 1 or len(last) != 1 or not first[0][0] == first[0][1] <= last[0][0] == last[0][1]:
                    self.refuse("a range a-z must go upwards, from one character to another")
                first = ((first[0][0], last[0][0]),)
            ranges += first
        return all_but(merged(ranges)) if negated else merged(ranges)

    def member(self) -> Ranges:
        character = self.take()
        if character == "\\":
            if self.pattern.startswith("b", self.at):  # inside a class, and only there, \b is the backspace
                self.at += 1
                return ((8, 8),)
            return self.escape()
        return ((ord(character),) * 2,)
