r"""Scaled dot-product attention: the weighted average."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.draw import Draw
from minillm.course.lessons.lesson_02.weights import (
    NO_SCALE,
    SHORT_SUMS,
    WRONG_AXIS,
    WRONG_MASKS,
    attention_inputs,
    weights_by,
    weights_not_normalized,
    weights_other_style,
    weights_row_by_row,
)


def sdpa_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    for q, k, options in attention_inputs(draw):
        yield (q, k, draw.normal(*k.shape[:-1], draw.size(7, 9), dtype=k.dtype)), options


def sdpa_row_by_row(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    attn_bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    weights = weights_row_by_row(q.double(), k.double(), mask, attn_bias, scale)
    return (weights[..., None] * v.double()[..., None, :, :]).sum(-2).to(v.dtype)


def sdpa_by(weigh: Callable[..., Tensor]) -> Callable[..., Tensor]:
    r"""Attention with other weights."""

    def wrong(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        attn_bias: Tensor | None = None,
        scale: float | None = None,
    ) -> Tensor:
        return weigh(q, k, mask, attn_bias, scale) @ v

    return wrong


def sdpa_other_style(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    attn_bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    return torch.einsum("...ij,...jd->...id", weights_other_style(q, k, mask, attn_bias, scale), v)


SDPA = Exercise(
    id="layers.sdpa.sdpa",
    lesson="02",
    title="Scaled dot-product attention",
    task="Give every query the average of the values, weighted by its attention weights. Use your `attention_weights`, "
    "and hand on everything it can use.",
    difficulty=1,
    minutes=5,
    points=3,
    seed=24,
    hints=(
        "Row i of the weights, times the values: w_i0 v_0 + w_i1 v_1 + ... For all rows at once that is one matrix "
        "product.",
        "Shapes: the weights are (..., Tq, Tk), the values (..., Tk, Dv), the result (..., Tq, Dv).",
        "mask, attn_bias and scale all go to `attention_weights`.",
    ),
    cases=sdpa_cases,
    oracle=sdpa_row_by_row,
    other_style=sdpa_other_style,
    tolerance=SHORT_SUMS,
    mistakes=(
        Mistake("no scale", sdpa_by(weights_by(factor=lambda q, k: 1.0)), NO_SCALE),
        Mistake("softmax over queries", sdpa_by(weights_by(dim=-2)), WRONG_AXIS),
        Mistake(
            "weights returned",
            lambda q, k, v, mask=None, attn_bias=None, scale=None: weights_other_style(q, k, mask, attn_bias, scale),
            "These are the attention weights. What a query gets is the average of the *values* with these weights: one "
            "product is still missing.",
        ),
        Mistake(
            "keys averaged",
            lambda q, k, v, mask=None, attn_bias=None, scale=None: sdpa_other_style(q, k, k, mask, attn_bias, scale),
            "You average the keys. Keys are for being found; what is handed over are the values, `v`.",
        ),
        Mistake(
            "no softmax",
            sdpa_by(weights_not_normalized),
            "The values are multiplied by the bare scores. Softmax makes them weights of an average, between 0 and 1 "
            "and with sum 1: use your `attention_weights`.",
        ),
        Mistake(
            "bias not handed on",
            lambda q, k, v, mask=None, attn_bias=None, scale=None: sdpa_other_style(q, k, v, mask, None, scale),
            "`attn_bias` gets lost on the way. Hand it on to `attention_weights`.",
        ),
        Mistake(
            "scale not handed on",
            lambda q, k, v, mask=None, attn_bias=None, scale=None: sdpa_other_style(q, k, v, mask, attn_bias),
            "`scale` gets lost on the way. Hand it on to `attention_weights`.",
        ),
        *(Mistake(name, sdpa_by(weights_by(rule)), message) for name, (rule, message) in WRONG_MASKS.items()),
    ),
)
