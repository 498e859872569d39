r"""Multi-head self-attention, and what both exercises with several heads share: an oracle head by head, slips."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

FOUR_PRODUCTS = Tolerance(1e-4, 2e-5, "four matrix products in a row, summed in another order in float32")
UNTRANSPOSED = (
    "A weight is stored as in nn.Linear, (features out, features in), and applied as `x @ w.T`. Without the `.T` it "
    "runs only where both sizes happen to be equal, and is wrong even there."
)
NO_W_O = (
    "The heads come back side by side and nothing mixes them: the last product, with `w_o.T`, is missing. Only it "
    "brings them back into the residual stream's coordinates."
)
MERGED_WRONG = (
    "The heads are merged without the transpose, so tokens exchange features with each other. Use your `merge_heads`."
)
SPLIT_WRONG = (
    "q, k and v are reshaped straight to (B, H, T, Dh), so a head sees a mixture of tokens. Use your `split_heads`."
)
ONE_HEAD = (
    "`n_heads` makes no difference: you run one attention over the full width. Split q, k and v into heads first, so "
    "that each head has a softmax of its own."
)
FULL_WIDTH_SCALE = (
    "The scores are scaled by the full width. Each head has its own dot product of Dh terms, so it is 1 / sqrt(Dh), "
    "what `sdpa` does by itself after the split."
)
MASK_LOST = "The mask gets lost: every token sees every token. Hand it on to `sdpa`."


def project(x: Tensor, w: Tensor) -> Tensor:
    return torch.einsum("bti,oi->bto", x.double(), w.double())


def heads_one_by_one(
    q: Tensor, k: Tensor, v: Tensor, w_o: Tensor, n_heads: int, mask: Tensor | None, scale: float | None = None
) -> Tensor:
    r"""Attention as a sum over heads, each with its own columns of w_o: nothing is split, merged or transposed."""
    width = q.shape[-1] // n_heads
    out = torch.zeros(*q.shape[:2], w_o.shape[0], dtype=torch.float64)
    for head in range(n_heads):
        part = slice(head * width, (head + 1) * width)
        scores = torch.einsum("bif,bjf->bij", q[..., part], k[..., part]) * (scale or width**-0.5)
        if mask is not None:
            shape = (q.shape[0], n_heads, q.shape[1], k.shape[1])
            scores = scores.masked_fill(~mask.expand(shape)[:, head], float("-inf"))
        found = torch.einsum("bij,bjf->bif", scores.softmax(-1).nan_to_num(0.0), v[..., part])
        out += torch.einsum("bif,of->bio", found, w_o[:, part].double())
    return out


def self_attention_oracle(
    x: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, w_o: Tensor, n_heads: int, mask: Tensor | None = None
) -> Tensor:
    q, k, v = project(x, w_q), project(x, w_k), project(x, w_v)
    return heads_one_by_one(q, k, v, w_o, n_heads, mask).to(x.dtype)


def cross_attention_oracle(
    x: Tensor,
    memory: Tensor,
    w_q: Tensor,
    w_k: Tensor,
    w_v: Tensor,
    w_o: Tensor,
    n_heads: int,
    mask: Tensor | None = None,
) -> Tensor:
    q, k, v = project(x, w_q), project(memory, w_k), project(memory, w_v)
    return heads_one_by_one(q, k, v, w_o, n_heads, mask).to(x.dtype)


def square_weights(draw: Draw, width: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [draw.normal(width, width, dtype=dtype, scale=1.5 * width**-0.5) for _ in range(4)]


def self_attention_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    b, t, h, d = draw.sizes(4, 2, 5)
    causal = torch.ones(t, t).tril().bool()
    yield (draw.normal(1, 3, 4), *square_weights(draw, 4), 2), {}
    yield (draw.normal(b, t, h * d), *square_weights(draw, h * d), h), {"mask": causal}
    x = draw.normal(b, t, h * d, dtype=torch.float64)
    yield (x, *square_weights(draw, h * d, torch.float64), d, causal.repeat(b, 1, 1, 1)), {}
    # heads narrower than D / H: head_dim is a choice of its own
    narrow = [draw.normal(h * d, h * (d + 2), scale=0.5) for _ in range(3)]
    yield (draw.normal(b, t, h * (d + 2)), *narrow, draw.normal(h * (d + 2), h * d, scale=0.5), h), {}


def multi_by(
    apply: Callable[[Tensor, Tensor], Tensor] = lambda x, w: x @ w.T,
    split: Callable[[Tensor, int], Tensor] = lambda x, n: x.unflatten(-1, (n, -1)).transpose(1, 2),
    merge: Callable[[Tensor], Tensor] = lambda x: x.transpose(1, 2).flatten(2),
    use_w_o: bool = True,
    full_width_scale: bool = False,
) -> Callable[..., Tensor]:
    r"""Attention from x to memory with one step done differently."""

    def wrong(
        x: Tensor,
        memory: Tensor,
        w_q: Tensor,
        w_k: Tensor,
        w_v: Tensor,
        w_o: Tensor,
        n_heads: int,
        mask: Tensor | None = None,
    ) -> Tensor:
        q, k, v = (split(apply(y, w), n_heads) for y, w in ((x, w_q), (memory, w_k), (memory, w_v)))
        scale = w_q.shape[0] if full_width_scale else q.shape[-1]
        scores = q @ k.mT * scale**-0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        out = merge(scores.softmax(-1).nan_to_num(0.0) @ v)
        return apply(out, w_o) if use_w_o else out

    return wrong


def within_x(cross: Callable[..., Tensor]) -> Callable[..., Tensor]:
    r"""A wrong cross-attention as a wrong self-attention."""

    def wrong(
        x: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, w_o: Tensor, n_heads: int, mask: Tensor | None = None
    ) -> Tensor:
        return cross(x, x, w_q, w_k, w_v, w_o, n_heads, mask)

    return wrong


def split_by_reshape(x: Tensor, n_heads: int) -> Tensor:
    return x.reshape(x.shape[0], n_heads, x.shape[1], -1)


def merge_by_reshape(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], x.shape[2], -1)


def head_dim_from_x(
    x: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, w_o: Tensor, n_heads: int, mask: Tensor | None = None
) -> Tensor:
    shape = (*x.shape[:2], n_heads, x.shape[-1] // n_heads)
    q, k, v = ((x @ w.T).view(shape).transpose(1, 2) for w in (w_q, w_k, w_v))
    found = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return found.transpose(1, 2).flatten(2) @ w_o.T


def always_causal(
    x: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, w_o: Tensor, n_heads: int, mask: Tensor | None = None
) -> Tensor:
    causal = torch.ones(x.shape[1], x.shape[1]).tril().bool()
    return self_attention_oracle(x, w_q, w_k, w_v, w_o, n_heads, causal)


UNTRANSPOSED_CROSS = multi_by(apply=lambda x, w: x @ w)
WRONG_EVERYWHERE: dict[str, tuple[Callable[..., Tensor], str]] = {
    "weights not transposed": (UNTRANSPOSED_CROSS, UNTRANSPOSED),
    "w_o forgotten": (multi_by(use_w_o=False), NO_W_O),
    "heads merged without transpose": (multi_by(merge=merge_by_reshape), MERGED_WRONG),
    "heads split without transpose": (multi_by(split=split_by_reshape), SPLIT_WRONG),
    "one head": (multi_by(split=lambda x, n: x[:, None]), ONE_HEAD),
    "scaled by the full width": (multi_by(full_width_scale=True), FULL_WIDTH_SCALE),
}


def self_attention_other_style(
    x: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, w_o: Tensor, n_heads: int, mask: Tensor | None = None
) -> Tensor:
    return within_x(cross_attention_other_style)(x, w_q, w_k, w_v, w_o, n_heads, mask)


def cross_attention_other_style(
    x: Tensor,
    memory: Tensor,
    w_q: Tensor,
    w_k: Tensor,
    w_v: Tensor,
    w_o: Tensor,
    n_heads: int,
    mask: Tensor | None = None,
) -> Tensor:
    head_dim = w_q.shape[0] // n_heads
    q = (x @ w_q.T).view(*x.shape[:2], n_heads, head_dim).transpose(1, 2)
    k = (memory @ w_k.T).view(*memory.shape[:2], n_heads, head_dim).transpose(1, 2)
    v = (memory @ w_v.T).view(*memory.shape[:2], n_heads, head_dim).transpose(1, 2)
    found = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return torch.nn.functional.linear(found.transpose(1, 2).reshape(*x.shape[:2], -1), w_o)


MULTI_HEAD_ATTENTION = Exercise(
    id="layers.multi_head.multi_head_attention",
    lesson="02",
    title="Multi-head self-attention",
    task="Make queries, keys and values from `x` with the three matrices, split each into heads, attend, merge the "
    "heads, and mix them with `w_o`. A weight is (features out, features in), as in nn.Linear. All the parts are "
    "yours already: `split_heads`, `sdpa`, `merge_heads`.",
    difficulty=2,
    minutes=12,
    points=4,
    seed=27,
    hints=(
        "Write the shapes beside each step: x (B, T, D), then q, k, v (B, H, T, Dh), then what sdpa gives, then (B, T, "
        "H * Dh), then (B, T, D).",
        "nn.Linear computes `x @ w.T`. All four weights are applied so.",
        "`sdpa` works on the last two dimensions and does not mind two more in front: no loop over heads is needed. Do "
        "not forget the mask.",
    ),
    cases=self_attention_cases,
    oracle=self_attention_oracle,
    other_style=self_attention_other_style,
    tolerance=FOUR_PRODUCTS,
    mistakes=(
        *(Mistake(name, within_x(wrong), message) for name, (wrong, message) in WRONG_EVERYWHERE.items()),
        Mistake(
            "head_dim taken from x",
            head_dim_from_x,
            "You take head_dim as D / H. The weights decide: `w_q` makes H * Dh features, and Dh need not be D / H. "
            "Split what came out of the projection, not what went in.",
        ),
        Mistake(
            "always causal",
            always_causal,
            "You hide the future by yourself. Who may see whom is not for this function to decide: use the `mask` "
            "that is given, and none if it is None.",
        ),
        Mistake(
            "queries and keys swapped",
            lambda x, w_q, w_k, w_v, w_o, n_heads, mask=None: self_attention_oracle(
                x, w_k, w_q, w_v, w_o, n_heads, mask
            ),
            "Queries are made with `w_k` and keys with `w_q`: now everyone is looked at by whom they should look at.",
        ),
        Mistake(
            "values made with w_k",
            lambda x, w_q, w_k, w_v, w_o, n_heads, mask=None: self_attention_oracle(
                x, w_q, w_k, w_k, w_o, n_heads, mask
            ),
            "The values are made with `w_k`; `w_v` is not used. What a token hands over is free of what it is found "
            "by.",
        ),
        Mistake(
            "mask not handed on",
            lambda x, w_q, w_k, w_v, w_o, n_heads, mask=None: self_attention_oracle(x, w_q, w_k, w_v, w_o, n_heads),
            MASK_LOST,
        ),
    ),
)
