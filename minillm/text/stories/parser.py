r"""Reading stories: finds every derivation of a text, or the first word at which none is left.

The parser walks through the words from left to right and keeps all readings that are still possible, each with the
facts it has bound and its log-probability. It works from the grammar's table alone and shares no code with the
generator, so that each can be tested against the other.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from minillm.text.stories.grammar import Grammar


@dataclass(frozen=True)
class Reading:
    r"""One way to read the words so far.

    Args:
        rest: the symbols still to come, the next one first; never a rule in front.
        log_prob: of the choices made so far, in nats.
        words: for each slot whose fact is bound, its word.
        slots: for each word read, the slot it fills, or "".
    Lesson: 01.
    """

    rest: tuple[str, ...]
    log_prob: float = 0.0
    words: Mapping[str, str] = field(default_factory=dict)
    slots: tuple[str, ...] = ()


@dataclass(frozen=True)
class Parse:
    r"""What came out of reading a text.

    Args:
        derivations: all complete readings; none if the text is not a story.
        stopped_at: the index of the first word that no reading allows (the number of words if the text ends too
            early), or None.
        alive: the readings that were possible just before that word.
    Lesson: 01.
    """

    derivations: tuple[Reading, ...]
    stopped_at: int | None = None
    alive: tuple[Reading, ...] = ()


def _open_rules(grammar: Grammar, reading: Reading) -> list[Reading]:
    """Replace a rule in front of the rest by each of its choices, until a word or a slot is in front."""
    if not reading.rest or not reading.rest[0].startswith("<"):
        return [reading]
    choices = grammar.rules[reading.rest[0].strip("<>")]
    norm = math.log(math.fsum(weight for weight, _ in choices))
    opened = []
    for weight, symbols in choices:
        chosen = replace(
            reading,
            rest=(*symbols.split(), *reading.rest[1:]),
            log_prob=reading.log_prob + math.log(weight) - norm,
        )
        opened.extend(_open_rules(grammar, chosen))
    return opened


def _read_word(grammar: Grammar, reading: Reading, word: str) -> list[Reading]:
    """Return the readings after this word; none if it does not fit."""
    if not reading.rest:
        return []
    expected, rest = reading.rest[0], reading.rest[1:]
    if not expected.startswith("{"):
        return [replace(reading, rest=rest, slots=(*reading.slots, ""))] if word == expected else []
    slot = expected.strip("{}")
    after = replace(reading, rest=rest, slots=(*reading.slots, slot))
    if slot in reading.words:
        return [after] if reading.words[slot] == word else []
    rows = next(rows for rows in grammar.facts.values() if slot in rows[0])
    log_prob = reading.log_prob - math.log(len(rows))
    return [replace(after, words={**reading.words, **row}, log_prob=log_prob) for row in rows if row[slot] == word]


def parse_words(grammar: Grammar, words: Sequence[str]) -> Parse:
    r"""Find all derivations of a text.

    Args:
        grammar: a grammar without recursion.
        words: the text's words and marks.
    Returns: a `Parse`.
    Lesson: 01.
    """
    readings = _open_rules(grammar, Reading(rest=(f"<{grammar.start}>",)))
    for i, word in enumerate(words):
        fitting = [after for reading in readings for after in _read_word(grammar, reading, word)]
        if not fitting:
            return Parse((), stopped_at=i, alive=tuple(readings))
        readings = [opened for reading in fitting for opened in _open_rules(grammar, reading)]
    complete = tuple(reading for reading in readings if not reading.rest)
    if complete:
        return Parse(complete)
    return Parse((), stopped_at=len(words), alive=tuple(readings))


def expected_words(grammar: Grammar, reading: Reading) -> set[str]:
    r"""List the words that a reading allows next.

    Args:
        grammar: the grammar of the reading.
        reading: a reading that is not complete.
    Returns: the allowed words; empty if the reading is complete.
    Lesson: 01.
    """
    if not reading.rest:
        return set()
    symbol = reading.rest[0]
    if not symbol.startswith("{"):
        return {symbol}
    slot = symbol.strip("{}")
    if slot in reading.words:
        return {reading.words[slot]}
    return {row[slot] for rows in grammar.facts.values() if slot in rows[0] for row in rows}
