r"""The whole model, from parts that are handed in."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

SMALL_SUMS = Tolerance(5e-5, 2e-5, "sums of a few terms through up to four blocks, possibly in another order")


def model_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    b, t, d, v = draw.sizes(4, 2, 7)
    token_ids = draw.integers(0, v - 1, b, t)
    yield (draw.integers(0, 3, 1, 2), torch.arange(2), *random_model(draw, 4, 3, 2)), {}
    yield (token_ids, torch.arange(t), *random_model(draw, v, d, 3)), {}
    yield (token_ids, torch.arange(t) + draw.size(1, 9), *random_model(draw, v, d, 2, torch.float64)), {}
    yield (token_ids, draw.integers(0, 15, b, t), *random_model(draw, v, d, 4)), {}
    tok_emb, _, *others = random_model(draw, v, d, 2)
    yield (token_ids, torch.arange(t), tok_emb, None, *others), {}


def random_model(
    draw: Draw, vocab_size: int, d_model: int, n_layers: int, dtype: torch.dtype = torch.float32
) -> tuple[Any, ...]:
    r"""Embeddings, blocks that do not commute, a norm without weights, a head."""
    tokens = draw.normal(vocab_size, d_model, dtype=dtype)
    places = draw.normal(20, d_model, dtype=dtype)
    head = draw.normal(vocab_size, d_model, dtype=dtype)
    turns = [draw.normal(d_model, d_model, dtype=dtype, scale=0.8) for _ in range(n_layers)]
    return (
        lambda ids: tokens[ids],
        lambda positions: places[positions],
        [lambda x, w=w: x + torch.tanh(x @ w + 0.3) for w in turns],
        lambda x: 1.7 * x / (x.square().mean(-1, keepdim=True) + 0.05).sqrt(),
        lambda x: x @ head.T,
    )


def logits_row_by_row(
    token_ids: Tensor, positions: Tensor, tok_emb: Any, pos_emb: Any, blocks: Any, final_norm: Any, lm_head: Any
) -> Tensor:
    rows = []
    for ids, places in zip(token_ids, positions.expand(token_ids.shape), strict=True):
        vectors = [tok_emb(ids[t]) + (pos_emb(places[t]) if pos_emb else 0) for t in range(len(ids))]
        stream = torch.stack(vectors)[None]
        for block in blocks:
            stream = block(stream)
        rows.append(lm_head(final_norm(stream))[0])
    return torch.stack(rows)


def model_by(
    add_positions: Callable[[Tensor, Tensor, Tensor, Any], Tensor] | None = None,
    run_blocks: Callable[[Tensor, Sequence[Any]], Tensor] | None = None,
    finish: Callable[[Tensor, Any, Any], Tensor] = lambda x, final_norm, lm_head: lm_head(final_norm(x)),
) -> Callable[..., Tensor]:
    r"""A forward pass with another way to add positions, to run the blocks, or to finish."""

    def wrong(
        token_ids: Tensor, positions: Tensor, tok_emb: Any, pos_emb: Any, blocks: Any, final_norm: Any, lm_head: Any
    ) -> Tensor:
        x = tok_emb(token_ids)
        if add_positions is not None:
            x = add_positions(x, token_ids, positions, pos_emb)
        elif pos_emb is not None:
            x = x + pos_emb(positions)
        return finish((run_blocks or in_a_row)(x, blocks), final_norm, lm_head)

    return wrong


def in_a_row(x: Tensor, blocks: Sequence[Any]) -> Tensor:
    for block in blocks:
        x = block(x)
    return x


def each_from_the_embedding(x: Tensor, blocks: Sequence[Any]) -> Tensor:
    out = x
    for block in blocks:
        out = block(x)
    return out


def stream_added_twice(x: Tensor, blocks: Sequence[Any]) -> Tensor:
    for block in blocks:
        x = x + block(x)
    return x


def if_there(pos_emb: Any, x: Tensor, places: Tensor) -> Tensor:
    return x if pos_emb is None else x + pos_emb(places)


GPT_FORWARD = Exercise(
    id="model.gpt.gpt_forward",
    lesson="07",
    title="The whole model",
    task="Write the forward pass: vectors for the tokens, positions added to them, the blocks one after another, the "
    "final norm, the head. All parts are functions that are handed in. `pos_emb` is None where positions enter "
    "elsewhere (as with RoPE).",
    difficulty=1,
    minutes=10,
    points=3,
    seed=73,
    hints=(
        "Five steps in the order of the picture, hardly more than a line each; the blocks are a loop.",
        "Let one variable be the residual stream: every step reads it and gives its new value.",
        "`positions` need not begin at 0 (a cached step does not), so hand on what you are given. And test "
        "`pos_emb is not None` before you call it.",
    ),
    cases=model_cases,
    oracle=logits_row_by_row,
    other_style=model_by(),
    tolerance=SMALL_SUMS,
    mistakes=(
        Mistake(
            "no positions",
            model_by(add_positions=lambda x, ids, positions, pos_emb: x),
            "The positions are never added. The model could not tell `dog bites man` from `man bites dog` but for what "
            "the causal mask lets through.",
        ),
        Mistake(
            "pos_emb always called",
            model_by(add_positions=lambda x, ids, positions, pos_emb: x + pos_emb(positions)),
            "`pos_emb` may be None: with RoPE and ALiBi positions enter inside attention, and nothing is added here. "
            "Add only if it is not None.",
        ),
        Mistake(
            "positions counted anew",
            model_by(
                add_positions=lambda x, ids, positions, pos_emb: if_there(pos_emb, x, torch.arange(ids.shape[1]))
            ),
            "You count positions from 0 instead of using those that are given. With a cache the second call starts at "
            "position 7, say, and with padding each row has positions of its own.",
        ),
        Mistake(
            "positions of token ids",
            model_by(add_positions=lambda x, ids, positions, pos_emb: if_there(pos_emb, x, ids)),
            "You look the *token ids* up in the position table. `pos_emb` takes `positions`.",
        ),
        Mistake(
            "no final norm",
            model_by(finish=lambda x, final_norm, lm_head: lm_head(x)),
            "The final norm is missing. A pre-norm stream grows from block to block and is never normalized on the "
            "way; without the last norm the logits grow with depth.",
        ),
        Mistake(
            "head before norm",
            model_by(finish=lambda x, final_norm, lm_head: final_norm(lm_head(x))),
            "You normalize the logits. The norm belongs to the stream, D wide: first final_norm, then lm_head.",
        ),
        Mistake(
            "blocks never run",
            model_by(
                run_blocks=lambda x, blocks: x,
                finish=lambda x, final_norm, lm_head: lm_head(x),
            ),
            "The blocks are never run: this goes from the embedding straight to the head.",
        ),
        Mistake(
            "blocks in reverse",
            model_by(run_blocks=lambda x, blocks: in_a_row(x, list(blocks)[::-1])),
            "The blocks run from last to first. Each was trained to read what the ones before it have written: keep "
            "their order.",
        ),
        Mistake(
            "only the first block",
            model_by(run_blocks=lambda x, blocks: blocks[0](x)),
            "Only the first block runs. Is there a `return` inside the loop, or an index where a loop is needed?",
        ),
        Mistake(
            "every block reads the embedding",
            model_by(run_blocks=each_from_the_embedding),
            "Every block reads the embedding, and only the last one's result is used. Each must read what the one "
            "before it gave: `x = block(x)`.",
        ),
        Mistake(
            "stream added twice",
            model_by(run_blocks=stream_added_twice),
            "You add x to the result of each block. A block already returns the whole stream, its own residual "
            "connections included, so this doubles the stream in every layer.",
        ),
        Mistake(
            "probabilities returned",
            model_by(finish=lambda x, final_norm, lm_head: lm_head(final_norm(x)).softmax(-1)),
            "These are probabilities. Return the logits: the loss takes a log_softmax of them, and sampling wants to "
            "divide them by a temperature first.",
        ),
        Mistake(
            "last position only",
            model_by(finish=lambda x, final_norm, lm_head: lm_head(final_norm(x[:, -1:]))),
            "You keep the last position only. That is enough for choosing the next token, but training learns at every "
            "position at once: return (B, T, V).",
        ),
    ),
)
