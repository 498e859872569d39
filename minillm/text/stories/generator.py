r"""Telling stories: lists what a grammar can say, draws from it, and computes its entropy."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, product

from minillm.text.stories.grammar import Fact, Grammar


@dataclass(frozen=True)
class Skeleton:
    r"""A story with its words in place and its facts still open.

    Args:
        prob: the chance that a story has this skeleton.
        symbols: words, and slots as `{name}`.
    Lesson: 01.
    """

    prob: float
    symbols: tuple[str, ...]


def expand_rule(grammar: Grammar, rule: str) -> list[Skeleton]:
    r"""List everything a rule can become, with the facts left open.

    Args:
        grammar: a grammar without recursion.
        rule: the name of the rule, without brackets.
    Returns: the skeletons; their probabilities sum to 1.
    Raises:
        ValueError: if the grammar has no such rule.
    Lesson: 01.
    """
    if rule not in grammar.rules:
        raise ValueError(f"rule {rule!r} is not in the grammar; its rules are {sorted(grammar.rules)}")
    choices = grammar.rules[rule]
    total = sum(weight for weight, _ in choices)
    skeletons = []
    for weight, right_side in choices:
        parts = [
            expand_rule(grammar, symbol[1:-1]) if symbol[0] == "<" else [Skeleton(1.0, (symbol,))]
            for symbol in right_side.split()
        ]
        for combination in product(*parts):
            prob = weight / total * math.prod(part.prob for part in combination)
            skeletons.append(Skeleton(prob, tuple(symbol for part in combination for symbol in part.symbols)))
    return skeletons


def slot_facts(grammar: Grammar) -> dict[str, str]:
    r"""Say for each slot to which fact it belongs.

    Args:
        grammar: any grammar.
    Returns: a dict from slot name to fact name, in the order of the table.
    Lesson: 01.
    """
    return {slot: fact for fact, rows in grammar.facts.items() for slot in rows[0]}


def facts_used(skeleton: Skeleton, owner: Mapping[str, str]) -> list[str]:
    r"""List the facts that a skeleton mentions, each once.

    Args:
        skeleton: a skeleton of the grammar.
        owner: from `slot_facts`.
    Returns: fact names, in the order of their first mention.
    Lesson: 01.
    """
    return list(dict.fromkeys(owner[symbol[1:-1]] for symbol in skeleton.symbols if symbol[0] == "{"))


def grammar_entropy(skeletons: Sequence[Skeleton], facts: Mapping[str, Fact], owner: Mapping[str, str]) -> float:
    r"""Compute the entropy of a story in nats, exactly.

    A story is a skeleton and a row for each fact in it, chosen independently: -log p is the sum of -log p(skeleton) and
    of log(number of rows) for each fact used. This is the entropy of the *text* only because every text has exactly one
    derivation, which the tests prove with a parser that shares no code with this file.

    Args:
        skeletons: all skeletons, from `expand_rule`.
        facts: the grammar's facts.
        owner: from `slot_facts`.
    Returns: nats a story.
    Source: Soule 1974, Entropies of probabilistic grammars. Here the grammar is finite, so the sum is taken directly.
    Lesson: 01.
    """
    return sum(
        skeleton.prob * (-math.log(skeleton.prob) + sum(math.log(len(facts[f])) for f in facts_used(skeleton, owner)))
        for skeleton in skeletons
    )


class StoryTeller:
    r"""Draws one story at a time.

    Args:
        grammar: a grammar without recursion.
    Lesson: 01.
    """

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self.skeletons = expand_rule(grammar, grammar.start)
        self.owner = slot_facts(grammar)
        self._cumulative = list(accumulate(skeleton.prob for skeleton in self.skeletons))

    def tell(self, rng: random.Random) -> tuple[list[str], float]:
        r"""Draw a story.

        Args:
            rng: the source of chance; it is advanced.
        Returns: the story's words, and the log-probability (nats) of the choices made.
        Lesson: 01.
        """
        skeleton = rng.choices(self.skeletons, cum_weights=self._cumulative)[0]
        log_prob = math.log(skeleton.prob)
        words: dict[str, str] = {}
        for fact in facts_used(skeleton, self.owner):
            rows = self.grammar.facts[fact]
            words.update(rng.choice(rows))
            log_prob -= math.log(len(rows))
        return [words[s[1:-1]] if s[0] == "{" else s for s in skeleton.symbols], log_prob

    def entropy(self) -> float:
        r"""Compute the entropy of a story in nats, exactly."""
        return grammar_entropy(self.skeletons, self.grammar.facts, self.owner)
