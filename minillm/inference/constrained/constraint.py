r"""Let a model write only what matches: in each state of the automaton, forbid the tokens that lead nowhere."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from minillm.inference.constrained.automaton import DEAD, START, Automaton
from minillm.inference.constrained.token_texts import token_texts

NEVER = 2**31  # more tokens than any text has


class TokenConstraint:
    r"""A processor for `generate`: what is written after the prompt matches the automaton's pattern, always.

    For each state and token it knows where the token's bytes lead, and for each state how many tokens the shortest way
    to a match takes. A token is allowed if the tokens that are left suffice for the rest. Where a text matches, the end
    token is allowed too, and there only; so the model decides how long the text gets, as far as the pattern lets it.

        constraint = TokenConstraint(compile_regex(r"\d{3}-\d{4}"), tokenizer, prompt_len=5, max_new_tokens=8)
        token_ids = generate(model, prompts, 8, processors=[constraint], stop_ids=constraint.stop_ids)
        texts = [constraint.read(row) for row in token_ids]

    It remembers nothing from step to step, so beams may be exchanged. For a row that has left the pattern in spite of
    it, it changes nothing. A processor that forbids what the pattern needs leaves no token, which `generate` refuses.

    Args:
        automaton: from `compile_regex`.
        tokenizer: one of ours, or any with `token_bytes` and `decode`.
        prompt_len: T of the prompts, padding included; what follows is constrained.
        max_new_tokens: how many tokens may be written; None = without limit, and then a text that is cut off may lack
            its end.
        end_id: the token that ends a text; it is never written as a part of it. None = the tokenizer's `eos_id`, or
            where there is none, the first token that no matching text has.
    Raises:
        ValueError: if no text of this tokenizer matches, or none that is short enough, or there is no end token.
    Source: Willard and Louf 2023, Efficient Guided Generation for Large Language Models, section 3, over bytes.
    Lesson: 09.
    """

    def __init__(
        self,
        automaton: Automaton,
        tokenizer: Any,
        prompt_len: int,
        *,
        max_new_tokens: int | None = None,
        end_id: int | None = None,
    ):
        self._tokenizer, self._prompt_len, self._max_new_tokens = tokenizer, prompt_len, max_new_tokens
        n_states = len(automaton.table)
        self._ended, self._opening = n_states, n_states + 1  # after the end token; before the first token of all
        everywhere = follow_tokens(automaton, token_texts(tokenizer, at_start=False), torch.arange(n_states))
        opening = follow_tokens(automaton, token_texts(tokenizer, at_start=True), torch.tensor([START]))
        ended = torch.full_like(opening, self._ended)
        self._next = torch.cat([everywhere, ended, opening])
        accepting = torch.cat([automaton.accepting, torch.tensor([True]), automaton.accepting[START, None]])
        self._needed = tokens_to_match(self._next, accepting)
        self.end_id = self._find_end(end_id)
        self._next[:, self.end_id] = torch.where(accepting, self._ended, DEAD)
        self._needed = tokens_to_match(self._next, accepting)  # without the end token as a part of the text
        shortest = int(self._needed[[START, self._opening]].min())
        if shortest > (NEVER - 1 if max_new_tokens is None else max_new_tokens):
            known = "no text of this tokenizer" if shortest >= NEVER else f"no text of fewer than {shortest} tokens"
            raise ValueError(f"max_new_tokens={max_new_tokens}: {known} matches; allow more tokens, or change the "
                             "pattern to what the tokenizer can write")

    @property
    def stop_ids(self) -> list[int]:
        r"""What to give to `generate` as stop_ids."""
        return [self.end_id]

    def __call__(self, token_ids: Int[Tensor, "B T"], logits: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        r"""Forbid what leads to no match.

        Args:
            token_ids: prompts and what has been written, (B, T), int64; -1 = padding.
            logits: (B, V).
        Returns: (B, V), -inf where forbidden.
        Raises:
            ValueError: if no text can match after some prompt.
        """
        states, n_new = self._states_of(token_ids), token_ids.shape[1] - self._prompt_len
        left = NEVER - 1 if self._max_new_tokens is None else self._max_new_tokens - n_new
        hopeless = self._needed[states] > left
        if n_new == 0 and bool(hopeless.any()):
            row = int(hopeless.nonzero()[0])
            raise ValueError(f"token_ids[{row}]: no text that may follow this prompt matches; a tokenizer of words "
                             "writes a space before the first word, except at the very beginning")
        after = self._next[states]
        allowed = (self._needed[after] < left) | (after == self._ended) | hopeless[:, None]
        allowed = F.pad(allowed, (0, logits.shape[-1] - allowed.shape[-1]))  # a model may have rows for no token
        return logits.masked_fill(~allowed.to(logits.device), float("-inf"))

    def read(self, token_ids: Int[Tensor, "T"] | Sequence[int]) -> str:
        r"""The text that was written after the prompt.

        Args:
            token_ids: of one row, prompt first, as `generate` returns it.
        Returns: the text up to the end token; it matches the pattern.
        """
        ids = [int(i) for i in token_ids]
        written = ids[self._prompt_len :]
        if self.end_id in written:
            written = written[: written.index(self.end_id)]
        first = token_texts(self._tokenizer, at_start=self._is_opening(ids[: self._prompt_len]))
        later = token_texts(self._tokenizer, at_start=False)
        texts = [(later if i else first)[token_id] for i, token_id in enumerate(written)]
        return b"".join(texts).decode(errors="replace")

    def _states_of(self, token_ids: Tensor) -> Tensor:
        rows = token_ids[:, : self._prompt_len].tolist()
        states = torch.tensor([self._opening if self._is_opening(row) else START for row in rows])
        for column in token_ids[:, self._prompt_len :].T.cpu():
            states = self._next[states, column]
        return states

    def _is_opening(self, prompt: Sequence[int]) -> bool:
        no_text = {-1, *(getattr(self._tokenizer, name, -1) for name in ("bos_id", "pad_id"))}
        return no_text.issuperset(prompt)

    def _find_end(self, end_id: int | None) -> int:
        if end_id is None:
            end_id = getattr(self._tokenizer, "eos_id", None)
        if end_id is not None:
            return end_id
        unused = (self._needed[self._next[: self._ended]] >= NEVER).all(dim=0).nonzero()
        if not len(unused):
            raise ValueError("end_id=None: every token can be a part of a matching text, and this tokenizer has no "
                             "eos_id; give a token that may end the text, and is then no part of it")
        return int(unused[0])


def follow_tokens(
    automaton: Automaton, texts: Sequence[bytes], states: Int[Tensor, "S"]
) -> Int[Tensor, "S V"]:
    r"""Where every token leads from some states.

    Args:
        automaton: over bytes.
        texts: the bytes of each token; a token without any leads nowhere.
        states: from where.
    Returns: (S, V), int64, 0 = dead.
    Lesson: 09.
    """
    lengths = torch.tensor([len(text) for text in texts])
    longest = max(1, int(lengths.max()))
    padded = b"".join(text.ljust(longest, b"\0") for text in texts)
    letters = torch.frombuffer(bytearray(padded), dtype=torch.uint8).view(-1, longest)
    reached = torch.where(lengths > 0, states[:, None], DEAD)
    for i in range(longest):  # few tokens are long
        longer = (lengths > i).nonzero()[:, 0]
        reached[:, longer] = automaton.table[reached[:, longer], letters[longer, i].long()]
    return reached


def tokens_to_match(next_states: Int[Tensor, "S V"], accepting: Tensor) -> Int[Tensor, "S"]:
    r"""How many tokens the shortest way from each state to a match takes.

    Args:
        next_states: where each token leads from each state, (S, V), int64.
        accepting: (S,), bool, where a text matches.
    Returns: (S,), int64; `NEVER` where no way leads to a match.
    Source: breadth-first search, Moore 1959, backwards from all that match.
    Lesson: 09.
    """
    comes_from: list[set[int]] = [set() for _ in range(len(next_states))]
    for state, row in enumerate(next_states):
        for target in row.unique().tolist():
            comes_from[target].add(state)
    needed = torch.where(accepting, 0, NEVER)
    found = accepting.nonzero()[:, 0].tolist()
    for state in found:  # grows while we walk, in the order of distance
        for earlier in comes_from[state]:
            if needed[earlier] == NEVER:
                needed[earlier] = needed[state] + 1
                found.append(earlier)
    return needed
