r"""Multi-head latent attention in its absorbed form."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

THREE_PRODUCTS = Tolerance(1e-4, 2e-5, "three matrix products in a row, summed in another order in float32")


def latent_inputs(draw: Draw, sizes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    r"""q, q_rope, latent, k_rope, w_uk, w_uv for sizes (B, H, Tq, Tk, Dh, Dr, Dv, R)."""
    b, h, q_len, kv_len, d, r, v, rank = sizes
    shapes = ((b, h, q_len, d), (b, h, q_len, r), (b, kv_len, rank), (b, kv_len, r), (h, d, rank), (h, v, rank))
    scales = (1.5, 1.5, 1.0, 1.5, 1.5 * rank**-0.5, rank**-0.5)
    return tuple(draw.normal(*shape, dtype=dtype, scale=s) for shape, s in zip(shapes, scales, strict=True))


def latent_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    h, t, d, v, rank = draw.sizes(5, 3, 8)
    causal = torch.ones(t, t).tril().bool()
    yield latent_inputs(draw, (1, 2, 2, 3, 2, 2, 2, 4)), {}
    yield latent_inputs(draw, (2, h, t, t, d, 2, v, rank + 4)), {"mask": causal}
    yield latent_inputs(draw, (2, h, 1, t, d, 4, v, rank), torch.float64), {}  # one new token
    yield (*latent_inputs(draw, (1, h, t, t, d, 2, d, d)), causal), {}  # every width alike: swaps have the right shape
    yield latent_inputs(draw, (2, h, t, t, d, 4, v, rank)), {"attn_bias": 2 * draw.normal(h, t, t), "mask": causal}
    yield latent_inputs(draw, (2, h, t, t + 2, d, 2, v, rank)), {"scale": draw.size(2, 9) / 10}


def latent_head_by_head(
    q: Tensor,
    q_rope: Tensor,
    latent: Tensor,
    k_rope: Tensor,
    w_uk: Tensor,
    w_uv: Tensor,
    mask: Tensor | None = None,
    attn_bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    r"""Keys and values of one head after the other, made in full, in float64."""
    factor = (q.shape[-1] + q_rope.shape[-1]) ** -0.5 if scale is None else scale
    shape, out = (q.shape[0], *q.shape[1:3], latent.shape[1]), []
    for head in range(q.shape[1]):
        keys = torch.einsum("btr,dr->btd", latent.double(), w_uk[head].double())
        values = torch.einsum("btr,dr->btd", latent.double(), w_uv[head].double())
        scores = torch.einsum("bid,bjd->bij", q[:, head].double(), keys)
        scores = factor * (scores + torch.einsum("bid,bjd->bij", q_rope[:, head].double(), k_rope.double()))
        if attn_bias is not None:
            scores = scores + attn_bias.expand(shape)[:, head]
        if mask is not None:
            scores = scores.masked_fill(~mask.expand(shape)[:, head], float("-inf"))
        out.append(torch.einsum("bij,bjd->bid", scores.softmax(-1).nan_to_num(0.0), values))
    return torch.stack(out, dim=1).to(q.dtype)


def latent_by(
    down: Callable[[Tensor, Tensor], Tensor] = lambda q, w_uk: torch.einsum("bhtd,hdr->bhtr", q, w_uk),
    up: Callable[[Tensor, Tensor], Tensor] = lambda read, w_uv: torch.einsum("bhtr,hdr->bhtd", read, w_uv),
    factor: Callable[[Tensor, Tensor, Tensor], float] = lambda q, rope, c: (q.shape[-1] + rope.shape[-1]) ** -0.5,
    rotated: bool = True,
    use_mask: bool = True,
    use_bias: bool = True,
) -> Callable[..., Tensor]:
    r"""The absorbed form with one step done differently; without arguments it is right."""

    def attend(
        q: Tensor,
        q_rope: Tensor,
        latent: Tensor,
        k_rope: Tensor,
        w_uk: Tensor,
        w_uv: Tensor,
        mask: Tensor | None = None,
        attn_bias: Tensor | None = None,
        scale: float | None = None,
    ) -> Tensor:
        scores = torch.einsum("bhir,bjr->bhij", down(q, w_uk), latent)
        if rotated:
            scores = scores + torch.einsum("bhir,bjr->bhij", q_rope, k_rope)
        scores = scores * (factor(q, q_rope, latent) if scale is None else scale)
        if use_bias and attn_bias is not None:
            scores = scores + attn_bias
        if use_mask and mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return up(torch.einsum("bhij,bjr->bhir", scores.softmax(-1).nan_to_num(0.0), latent), w_uv)

    return attend


def matrices_swapped(
    q: Tensor, q_rope: Tensor, latent: Tensor, k_rope: Tensor, w_uk: Tensor, w_uv: Tensor, *rest: Any, **named: Any
) -> Tensor:
    return latent_by()(q, q_rope, latent, k_rope, w_uv, w_uk, *rest, **named)


def two_softmaxes(
    q: Tensor,
    q_rope: Tensor,
    latent: Tensor,
    k_rope: Tensor,
    w_uk: Tensor,
    w_uv: Tensor,
    mask: Tensor | None = None,
    attn_bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    def weights(scores: Tensor) -> Tensor:
        scores = scores * ((q.shape[-1] + q_rope.shape[-1]) ** -0.5 if scale is None else scale)
        scores = scores if attn_bias is None else scores + attn_bias
        return (scores if mask is None else scores.masked_fill(~mask, float("-inf"))).softmax(-1).nan_to_num(0.0)

    content = weights(torch.einsum("bhtd,hdr,bjr->bhtj", q, w_uk, latent))
    place = weights(torch.einsum("bhir,bjr->bhij", q_rope, k_rope))
    return torch.einsum("bhij,bjr,hdr->bhid", (content + place) / 2, latent, w_uv)


MLA_ABSORB = Exercise(
    id="layers.mla.mla_absorb",
    lesson="03",
    title="Latent attention without making the keys",
    task="`mla_naive` makes every head's keys `w_uk @ latent` and values `w_uv @ latent`. Compute the same without "
    "ever making them: bring the *queries* down to the latents with `w_uk`, let the latents be keys and values for all "
    "heads, and bring what was read up with `w_uv`. A score is (content part + rotated part) * `scale`; None means "
    "1 / sqrt(Dh + Dr), the widths of the *two query parts that came in*.",
    difficulty=3,
    minutes=20,
    points=5,
    seed=35,
    hints=(
        "q · (W c) = (Wᵀ q) · c. Which axis of `w_uk`, (H, Dh, R), is summed over with q, (B, H, T, Dh)? "
        "`torch.einsum` lets you write it with names.",
        "The sum of two dot products is the dot product of two longer vectors: set `q_rope` beside the queries that "
        "you brought down, and `k_rope` beside the latents (`torch.cat`, last axis).",
        "Keys are now the same for all heads, so they need an axis of length 1 for the heads, or `expand` to H. Then "
        "`sdpa.sdpa` does the rest; give it `mask`, `attn_bias` and a scale of your own, because its default would "
        "count R + Dr features.",
        "What it gives back is a weighted sum of *latents*, (B, H, Tq, R). The last step is w_uv, head by head.",
    ),
    cases=latent_cases,
    oracle=latent_head_by_head,
    other_style=latent_by(),
    tolerance=THREE_PRODUCTS,
    mistakes=(
        Mistake(
            "scaled by the latent's width",
            latent_by(factor=lambda q, rope, c: (c.shape[-1] + rope.shape[-1]) ** -0.5),
            "The scores are scaled by the width of the latent, 1 / sqrt(R + Dr): the default of `sdpa` for the vectors "
            "that you gave it. Absorbing must not change a score, so it stays 1 / sqrt(Dh + Dr).",
        ),
        Mistake(
            "rotated part not counted in the scale",
            latent_by(factor=lambda q, rope, c: q.shape[-1] ** -0.5),
            "Your scale counts only the unrotated features. A score is a dot product of Dh + Dr features.",
        ),
        Mistake(
            "not scaled",
            latent_by(factor=lambda q, rope, c: 1.0),
            "The scores are not scaled at all where `scale` is None; it is 1 / sqrt(Dh + Dr) then.",
        ),
        Mistake(
            "rotated part left out",
            latent_by(rotated=False),
            "The rotated part is missing from the scores, so the model knows no positions any more: add q_rope · "
            "k_rope.",
        ),
        Mistake(
            "a softmax for each part",
            two_softmaxes,
            "You take a softmax of the content scores and one of the rotated scores, and mix the two. Add the *scores* "
            "first; there is one softmax.",
        ),
        Mistake(
            "matrices swapped",
            matrices_swapped,
            "`w_uk` and `w_uv` have changed places: queries come down with the keys' matrix, and what was read goes up "
            "with the values'.",
        ),
        Mistake(
            "transposed matrix",
            latent_by(down=lambda q, w_uk: torch.einsum("bhtr,hdr->bhtd", q, w_uk)),
            "You multiply q by `w_uk` along its latent axis. The sum runs over Dh, which q has; R is what is left.",
        ),
        Mistake(
            "values not brought up",
            latent_by(up=lambda read, w_uv: read),
            "What comes back are averaged latents, R wide. They become values only with `w_uv`, each head with its own "
            "part.",
        ),
        Mistake(
            "one head's matrices for all",
            latent_by(
                down=lambda q, w_uk: torch.einsum("bhtd,dr->bhtr", q, w_uk[0]),
                up=lambda read, w_uv: torch.einsum("bhtr,dr->bhtd", read, w_uv[0]),
            ),
            "All heads use the matrices of head 0. The latent is shared; what a head reads out of it is its own.",
        ),
        Mistake(
            "mask not handed on",
            latent_by(use_mask=False),
            "The mask gets lost, and every query sees every token. Hand it on to `sdpa`.",
        ),
        Mistake(
            "bias not handed on",
            latent_by(use_bias=False),
            "`attn_bias` gets lost. Hand it on to `sdpa`, as the naive form does.",
        ),
    ),
)
