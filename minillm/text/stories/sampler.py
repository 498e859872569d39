r"""Thousands of stories at once, as token ids: what `StoryTeller` does, in a few tensor operations.

Every skeleton is a row of a table, in which an id below the vocabulary's size is a word and a larger one is a slot.
A batch is drawn by picking rows, picking the facts, and looking the slots up.
"""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from minillm.text.stories.generator import StoryTeller
from minillm.text.words import WordTokenizer


class StorySampler:
    r"""Draws stories as rows of token ids: begin, words, end, padding.

    Args:
        teller: the stories' skeletons and facts.
        tokenizer: a word tokenizer that knows every word of them.
    Lesson: 01.
    """

    def __init__(self, teller: StoryTeller, tokenizer: WordTokenizer) -> None:
        self.n_words = tokenizer.vocab_size
        ids = {word: i for i, word in enumerate(tokenizer.vocabulary)}
        slots = list(teller.owner)
        ids |= {f"{{{slot}}}": self.n_words + i for i, slot in enumerate(slots)}
        self.max_len = 2 + max(len(skeleton.symbols) for skeleton in teller.skeletons)
        self.table = torch.full((len(teller.skeletons), self.max_len), tokenizer.pad_id)
        for row, skeleton in zip(self.table, teller.skeletons, strict=True):
            symbol_ids = [tokenizer.bos_id, *(ids[symbol] for symbol in skeleton.symbols), tokenizer.eos_id]
            row[: len(symbol_ids)] = torch.tensor(symbol_ids)
        probs = torch.tensor([skeleton.prob for skeleton in teller.skeletons], dtype=torch.float64)
        self.cumulative = probs.cumsum(0)[:-1].contiguous()

        facts = teller.grammar.facts
        fact_names = list(facts)
        self.n_rows = torch.tensor([len(facts[name]) for name in fact_names], dtype=torch.float64)
        self.slot_fact = torch.tensor([fact_names.index(teller.owner[slot]) for slot in slots])
        # One long list of all facts' words: the word of slot s, row r of its fact, is slot_words[slot_start[s] + r].
        words = [[ids[row[slot]] for row in facts[teller.owner[slot]]] for slot in slots]
        self.slot_words = torch.tensor([word for column in words for word in column])
        lengths = torch.tensor([len(column) for column in words])
        self.slot_start = lengths.cumsum(0) - lengths

    def sample(self, n: int, generator: torch.Generator) -> Int64[Tensor, "n max_len"]:
        r"""Draw n stories.

        Args:
            n: how many.
            generator: the source of chance; it is advanced.
        Returns: token ids, int64.
        Lesson: 01.
        """
        chances = torch.rand(n, 1 + len(self.n_rows), dtype=torch.float64, generator=generator)
        return self.fill(chances)

    def fill(self, chances: Float64[Tensor, "n n_choices"]) -> Int64[Tensor, "n max_len"]:
        r"""Turn uniform numbers into stories, row by row.

        Args:
            chances: numbers in [0, 1): the first of a row picks the skeleton, the others a row of each fact.
        Returns: token ids, int64.
        Lesson: 01.
        """
        skeletons = torch.searchsorted(self.cumulative, chances[:, 0].contiguous(), right=True)
        fact_rows = (chances[:, 1:] * self.n_rows).long()
        slot_ids = self.slot_words[self.slot_start + fact_rows[:, self.slot_fact]]
        token_ids = self.table[skeletons]
        filled = slot_ids.gather(1, (token_ids - self.n_words).clamp_(min=0))
        return torch.where(token_ids < self.n_words, token_ids, filled)
