r"""What shapes a text besides temperature and filters, in one small value."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from minillm.inference import penalties, stopping
from minillm.inference.constrained.automaton import compile_regex
from minillm.inference.constrained.constraint import TokenConstraint
from minillm.inference.generate import Processor


@dataclass(frozen=True, kw_only=True)
class Steering:
    r"""Penalties, where a text ends, and what it must look like; nothing of it unless it is asked for.

    Args:
        repetition_penalty: as in `penalties.repetition_penalty`; prompt and text count.
        frequency: as in `penalties.frequency_presence_penalty`; only what was written counts.
        presence: as there.
        no_repeat_ngram: n as in `penalties.no_repeat_ngram`; None = off.
        min_new_tokens: how many tokens come before the text may end.
        stops: strings that end a text and are no part of it.
        regex: what is written must match it as a whole; None = anything.
    Lesson: 09.
    """

    repetition_penalty: float = 1.0
    frequency: float = 0.0
    presence: float = 0.0
    no_repeat_ngram: int | None = None
    min_new_tokens: int = 0
    stops: tuple[str, ...] = ()
    regex: str | None = None

    def constraint(self, tokenizer: Any, prompt_len: int, max_new_tokens: int) -> TokenConstraint | None:
        r"""The constraint that `regex` asks for.

        Args:
            tokenizer: of the model.
            prompt_len: tokens of the prompt.
            max_new_tokens: how many may be written.
        Returns: the constraint, or None.
        """
        if self.regex is None:
            return None
        return TokenConstraint(compile_regex(self.regex), tokenizer, prompt_len, max_new_tokens=max_new_tokens)

    def processors(self, prompt_len: int, stop_ids: Iterable[int]) -> list[Processor]:
        r"""Everything but the constraint, in the order in which it acts.

        Args:
            prompt_len: tokens of the prompt, padding included.
            stop_ids: tokens that end a text.
        Returns: functions for `generate`; only those that do something.
        """
        def punish_repeats(token_ids: Tensor, logits: Tensor) -> Tensor:
            return penalties.repetition_penalty(logits, token_ids, self.repetition_penalty)

        def punish_written(token_ids: Tensor, logits: Tensor) -> Tensor:
            written = token_ids[:, prompt_len:]
            return penalties.frequency_presence_penalty(logits, written, self.frequency, self.presence)

        def forbid_runs(token_ids: Tensor, logits: Tensor) -> Tensor:
            return penalties.no_repeat_ngram(logits, token_ids, self.no_repeat_ngram)

        steps = [
            (self.repetition_penalty != 1.0, punish_repeats),
            (self.frequency != 0.0 or self.presence != 0.0, punish_written),
            (self.no_repeat_ngram is not None, forbid_runs),
            (self.min_new_tokens > 0, stopping.at_least(self.min_new_tokens, stop_ids, prompt_len)),
        ]
        return [processor for asked, processor in steps if asked]


PLAIN = Steering()
