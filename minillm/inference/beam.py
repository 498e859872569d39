r"""Beam search: keep the few likeliest beginnings at each step, not only the one."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minillm.inference.beam_cache import BeamCache
from minillm.inference.finished import FinishedTexts
from minillm.inference.generate import Processor, next_logits, processed, refuse_bad_prompts
from minillm.layers import softmax


def beam_step(
    scores: Float[Tensor, "B K"], log_probs: Float[Tensor, "B K V"], n_beams: int
) -> tuple[Float[Tensor, "B K_new"], Int[Tensor, "B K_new"], Int[Tensor, "B K_new"]]:
    r"""Let every beam go on with every token, and keep the best of all of these together.

    Args:
        scores: log-probability of each beam so far, (B, K), float; -inf where there is none.
        log_probs: of each beam's next token, (B, K, V).
        n_beams: how many to keep, from 1 to K * V.
    Returns: scores of the new beams, the best first; their parents, numbers from 0 to K - 1, int64; and their tokens,
        from 0 to V - 1, int64; each (B, n_beams).
    Raises:
        ValueError: if n_beams is less than 1 or more than K * V.
    Source: Lowerre 1976, The Harpy Speech Recognition System; Graves 2012, Sequence Transduction, algorithm 1.
    Lesson: 09.
    """
    n_rows, n_parents, vocab_size = log_probs.shape
    if not 1 <= n_beams <= n_parents * vocab_size:
        raise ValueError(f"n_beams={n_beams}: use 1 to {n_parents * vocab_size}, the number of ways to go on")
    together = (scores[:, :, None] + log_probs).view(n_rows, n_parents * vocab_size)
    best, index = together.topk(n_beams, dim=-1)
    return best, index // vocab_size, index % vocab_size


def beam_search(
    model: Any,
    token_ids: Int[Tensor, "B T"],
    max_new_tokens: int,
    *,
    n_beams: int,
    length_penalty: float = 1.0,
    stop_ids: Iterable[int] | None = None,
    pad_id: int = 0,
    padding_mask: Bool[Tensor, "B T_seen"] | None = None,
    processors: Sequence[Processor] = (),
    cache: Sequence[Any] | None = None,
) -> tuple[Int[Tensor, "B K T_all"], Float[Tensor, "B K"]]:
    r"""Look for the likeliest texts after each prompt, by keeping n_beams beginnings at each step.

    A text ends at a stop token, or at max_new_tokens. Texts of different lengths are ranked by

        score = log-probability of the new tokens / (number of new tokens)^length_penalty,

    where the stop token counts. With 0 that is the log-probability, which favours short texts; with 1 the mean.

    Args:
        model: with `model(token_ids, padding_mask, positions, cache)`.
        token_ids: prompts, (B, T), int64; pad on the left where lengths differ.
        max_new_tokens: at least 1.
        n_beams: K, at least 1; 1 is greedy.
        length_penalty: exponent of the length; larger favours longer texts.
        stop_ids: tokens that end a text; None = every text gets max_new_tokens.
        pad_id: what follows the end of a text.
        padding_mask: (B, cached + T), bool, True = real token, of what a given cache holds too.
        processors: as in `stream`, but each gets and returns *log-probabilities*, (B * K, V), and nothing is normalized
            afterwards: a constraint forbids texts and leaves the scores of the others as they are.
        cache: layer caches to go on with, whose rows can be exchanged by `choose`: `BeamCache`s or paged ones, in which
            beams share the blocks of what they have in common. Afterwards the last beams are in them, B * K rows.
            None = fresh `BeamCache`s.
    Returns: token ids, (B, K, T + max_new_tokens), prompt first, the best text first; and scores, (B, K), -inf where
        there are fewer than K texts.
    Raises:
        ValueError: if an argument is out of range.
    Source: Graves 2012, algorithm 1; Wu et al. 2016, section 7, for the length, whose (5 + length) / 6 is here length.
    Lesson: 09.
    """
    refuse_bad_prompts(token_ids, max_new_tokens, padding_mask)
    if min(max_new_tokens, n_beams) < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens}, n_beams={n_beams}: use at least 1 of each")
    cache = _caches_of_beams(model, token_ids, max_new_tokens) if cache is None else _exchangeable(cache)
    search = _Search(model, token_ids, padding_mask, cache, n_beams)
    stops = torch.tensor(sorted(stop_ids or ()), dtype=torch.int64, device=token_ids.device)
    finished = [FinishedTexts(n_beams, length_penalty, max_new_tokens) for _ in range(len(token_ids))]
    for n_new in range(1, max_new_tokens + 1):
        ended = search.step(processors, stops)
        for row, score, written in ended:
            finished[row].add(score, written)
        best_alive = search.scores[:, 0].tolist()
        if all(texts.complete(score, n_new) for texts, score in zip(finished, best_alive, strict=True)):
            break
    else:
        for row, score, written in search.alive():
            finished[row].add(score, written)
    return _as_tensors(finished, token_ids, max_new_tokens, n_beams, pad_id)


def _caches_of_beams(model, token_ids, max_new_tokens) -> list[BeamCache]:
    room = model.new_cache(len(token_ids), token_ids.shape[1] + max_new_tokens)
    return [BeamCache(layer.capacity) for layer in room]  # a tuned model wants some for vectors of its own


def _exchangeable(cache):
    if all(hasattr(layer, "choose") for layer in cache):
        return cache
    kind = type(cache[0]).__name__
    raise ValueError(f"cache: the rows of a {kind} can't be exchanged; use BeamCache or paged_caches")


class _Search:
    r"""The beams that are alive: their scores, what they have written, and the model's cache."""

    def __init__(self, model, token_ids, padding_mask, cache, n_beams):
        n_rows = len(token_ids)
        self.model, self.cache, self.n_beams = model, cache, n_beams
        self.padding_mask, self.new_ids, self.so_far = padding_mask, token_ids, token_ids
        self.scores = torch.zeros(n_rows, 1, device=token_ids.device)
        self.written = token_ids.new_zeros(n_rows, 1, 0)

    def step(self, processors, stops):
        r"""Go on by one token, and give back the texts that ended: (row, log-probability, tokens)."""
        n_rows, n_parents = self.scores.shape
        with torch.inference_mode():
            logits = next_logits(self.model, self.new_ids, self.padding_mask, self.cache)
            log_probs = softmax.log_softmax(logits.float(), dim=-1)
            log_probs = processed(log_probs, self.so_far, self.padding_mask, processors)
        log_probs = log_probs.view(n_rows, n_parents, -1)
        # Each beam can end in every stop token: so many candidates always hold n_beams that go on, if there are any.
        n_candidates = min(self.n_beams * (1 + len(stops)), n_parents * log_probs.shape[-1])
        scores, parents, token_ids = beam_step(self.scores, log_probs, n_candidates)
        is_stop = torch.isin(token_ids, stops)
        written = torch.cat([self.written.gather(1, parents[:, :, None].expand(-1, -1, self.written.shape[2])),
                             token_ids[:, :, None]], dim=2)
        # Only a text that is among the n_beams best ends: what beams that went on would have beaten does not count.
        ended = [(row, scores[row, i].item(), written[row, i].tolist())
                 for row, i in is_stop[:, : self.n_beams].nonzero().tolist() if scores[row, i] > float("-inf")]
        scores = scores.masked_fill(is_stop, float("-inf"))
        self.scores, kept = scores.topk(min(self.n_beams, n_candidates), dim=-1)
        self.written = written.gather(1, kept[:, :, None].expand(-1, -1, written.shape[2]))
        self._go_on(parents.gather(1, kept), n_parents)
        return ended

    def _go_on(self, parents, n_parents):
        rows = (parents + n_parents * torch.arange(len(parents), device=parents.device)[:, None]).flatten()
        for layer_cache in self.cache:
            layer_cache.choose(rows)
        self.new_ids = self.written[:, :, -1].reshape(-1, 1)
        self.so_far = torch.cat([self.so_far[rows], self.new_ids], dim=1)
        if self.padding_mask is not None:
            real = self.padding_mask[rows]
            self.padding_mask = torch.cat([real, torch.ones_like(real[:, :1])], dim=1)

    def alive(self):
        r"""The texts of all beams that are alive, in the form that `step` gives."""
        for row, i in (self.scores > float("-inf")).nonzero().tolist():
            yield row, self.scores[row, i].item(), self.written[row, i].tolist()


def _as_tensors(finished, token_ids, max_new_tokens, n_beams, pad_id) -> tuple[Tensor, Tensor]:
    n_rows, seq_len = token_ids.shape
    out = token_ids.new_full((n_rows, n_beams, seq_len + max_new_tokens), pad_id)
    out[:, :, :seq_len] = token_ids[:, None]
    scores = torch.full((n_rows, n_beams), float("-inf"), device=token_ids.device)
    for row, texts in enumerate(finished):
        for i, (score, written) in enumerate(texts.best()):
            out[row, i, seq_len : seq_len + len(written)] = token_ids.new_tensor(written)
            scores[row, i] = score
    return out, scores
