r"""The story language: one object that tells stories, judges them and knows how surprising they are."""

import math
import random
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from minillm.text.stories.generator import StoryTeller
from minillm.text.stories.grammar import STORIES, Grammar
from minillm.text.stories.parser import Parse, Reading, expected_words, parse_words
from minillm.text.stories.sampler import StorySampler
from minillm.text.words import WordTokenizer, join_words, split_words

# How to say that a word contradicts the story so far; {said} is what the story had, {here} what stands there.
_CONTRADICTIONS = {
    "hero": "the story is about {said}, here it is {here}",
    "he": "the story is about {hero}, so it is {said}, here it is {here}",
    "his": "the story is about {hero}, so it is {said}, here it is {here}",
    "friend": "the friend is called {said}, here it is {here}",
    "sound": "the friend is {a_animal} {animal}, which says {said}, here it says {here}",
    "look": "the {object} is {said}, here it is {here}",
    "object": "the story is about {a_look} {look} {said}, here the thing is a {here}",
    "place": "it happened in the {said}, here it is the {here}",
    "creature": "they met a {said}, here it is a {here}",
}


@dataclass(frozen=True)
class StoryVerdict:
    r"""Whether a text is a story and, if not, where it goes wrong and why.

    Args:
        ok: True if the text is a story of the language.
        where: index of the first wrong word or mark, from 0; the number of words if the text ends too early; None if
            it is a story, or if only the spacing is wrong.
        why: a sentence; it counts words from 1, as people do. Empty if the text is a story.
    Lesson: 01.
    """

    ok: bool
    where: int | None
    why: str


class StoryLanguage:
    r"""A language of little stories in which everything can be computed exactly.

    Each story has a hero, an animal friend, a thing, a place and a creature in the way. Who they are is said once, and
    must be carried through the story: that is what a model learns here, and what `check` checks.

    Args:
        grammar: the table of rules and facts; the one of the course if not given.
    Lesson: 01.
    """

    def __init__(self, grammar: Grammar = STORIES) -> None:
        self.grammar = grammar
        self._teller = StoryTeller(grammar)
        fact_words = [word for rows in grammar.facts.values() for slot in rows[0] for word in (r[slot] for r in rows)]
        plain_words = [s for skeleton in self._teller.skeletons for s in skeleton.symbols if s[0] != "{"]
        self.tokenizer = WordTokenizer(list(dict.fromkeys((".", ",", *fact_words, *sorted(set(plain_words))))))
        self._sampler = StorySampler(self._teller, self.tokenizer)

    @property
    def vocabulary(self) -> list[str]:
        r"""All tokens in the order of their ids, the three special ones first."""
        return list(self.tokenizer.vocabulary)

    @property
    def max_len(self) -> int:
        r"""The number of tokens in the longest story, with its begin and end token."""
        return self._sampler.max_len

    def sample(self, rng: random.Random) -> str:
        r"""Tell one story.

        Args:
            rng: the source of chance; it is advanced.
        Returns: the story.
        Lesson: 01.
        """
        return join_words(self._teller.tell(rng)[0])

    def sample_batch(self, n: int, generator: torch.Generator) -> Int64[Tensor, "n max_len"]:
        r"""Tell n stories at once, as token ids: begin, words, end, and padding up to `max_len`.

        Args:
            n: how many.
            generator: the source of chance; it is advanced.
        Returns: token ids, int64; same distribution as `sample`.
        Lesson: 01.
        """
        return self._sampler.sample(n, generator)

    def entropy(self) -> float:
        r"""Compute the entropy of a story, in nats: no model can do better on average than this."""
        return self._teller.entropy()

    def parse(self, text: str) -> Parse:
        r"""Find all derivations of a text; a story has exactly one.

        Args:
            text: any text.
        Returns: the parse; see `minillm.text.stories.parser`.
        Lesson: 01.
        """
        return parse_words(self.grammar, split_words(text))

    def log_prob(self, text: str) -> float:
        r"""Compute the log-probability of a text.

        Args:
            text: any text.
        Returns: nats; minus infinity if the text is not a story.
        Lesson: 01.
        """
        words = split_words(text)
        log_probs = [reading.log_prob for reading in parse_words(self.grammar, words).derivations]
        if not log_probs or join_words(words) != text:
            return -math.inf
        largest = max(log_probs)
        return largest + math.log(math.fsum(math.exp(value - largest) for value in log_probs))

    def facts(self, text: str) -> dict[str, str]:
        r"""Read the facts of a story: who, what, where.

        Args:
            text: a story.
        Returns: a word for each slot, such as {"hero": "Mia", "he": "she", "place": "cave", ...}.
        Raises:
            ValueError: if the text is not a story.
        Lesson: 01.
        """
        verdict = self.check(text)
        if not verdict.ok:
            raise ValueError(f"text must be a story, but {verdict.why}")
        return dict(self.parse(text).derivations[0].words)

    def check(self, text: str) -> StoryVerdict:
        r"""Judge whether a text is a story and, if not, say where it goes wrong and why.

        Args:
            text: any text.
        Returns: the verdict.
        Lesson: 01.
        """
        words = split_words(text)
        parse = parse_words(self.grammar, words)
        if parse.stopped_at is not None:
            return StoryVerdict(False, parse.stopped_at, self._explain(words, parse.stopped_at, parse.alive))
        if join_words(words) != text:
            return StoryVerdict(False, None, "the words are right, but not the spaces between them")
        return StoryVerdict(True, None, "")

    def _explain(self, words: list[str], i: int, alive: tuple[Reading, ...]) -> str:
        allowed = sorted(set().union(*(expected_words(self.grammar, reading) for reading in alive)))
        if not allowed:
            return f"word {i + 1}: the story was over, but {words[i]!r} follows"
        options = ", ".join(allowed[:4]) + (" ..." if len(allowed) > 4 else "")
        if i == len(words):
            return f"the text ends after {i} words; it could go on with: {options}"
        here = words[i]
        for reading in alive:
            slot = reading.rest[0].strip("{}") if reading.rest else ""
            rows = next((rows for rows in self.grammar.facts.values() if slot in rows[0]), ())
            if slot in _CONTRADICTIONS and slot in reading.words and any(row[slot] == here for row in rows):
                known = {**reading.words, "said": reading.words[slot], "here": here}
                # Not so after an article: "a old" is wrong, but there is no thing yet of which it could be said.
                if slot != "look" or "object" in known:
                    return f"word {i + 1}: " + _CONTRADICTIONS[slot].format(**known)
        if here not in self.tokenizer.vocabulary:
            return f"word {i + 1}: {here!r} is not a word of the story language; here it could be: {options}"
        return f"word {i + 1}: {here!r} cannot stand here; it could be: {options}"
