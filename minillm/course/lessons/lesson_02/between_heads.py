r"""Splitting a wide vector into heads, and merging them again."""

from collections.abc import Iterator
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

MOVES_ONLY = Tolerance(0.0, 0.0, "numbers are moved, never computed with")


def numbered(*shape: int) -> Tensor:
    r"""A tensor whose elements tell where they came from."""
    return torch.arange(torch.Size(shape).numel()).reshape(shape)


def split_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    b, t, h, d = draw.sizes(4, 2, 6)
    yield (numbered(1, 2, 6), 3), {}
    yield (draw.normal(b, t, h * d), h), {}
    yield (draw.normal(b, t, d * h, dtype=torch.float64), d), {}
    yield (draw.normal(b, h, h * h), h), {}  # every axis of length h: only the order of the numbers can show a mistake
    yield (draw.integers(0, 99, b, t, d), 1), {}
    yield (draw.normal(b, t, h * d + 1), h), {}  # to be refused


def split_by_slices(x: Tensor, n_heads: int) -> Tensor:
    if x.shape[-1] % n_heads:
        raise ValueError(f"{n_heads} heads do not divide {x.shape[-1]}")
    width = x.shape[-1] // n_heads
    return torch.stack([x[:, :, head * width : (head + 1) * width] for head in range(n_heads)], dim=1)


def split_no_transpose(x: Tensor, n_heads: int) -> Tensor:
    return x.reshape(x.shape[0], n_heads, x.shape[1], -1) if x.shape[-1] % n_heads == 0 else split_by_slices(x, n_heads)


def split_drops_rest(x: Tensor, n_heads: int) -> Tensor:
    return split_by_slices(x[..., : x.shape[-1] // n_heads * n_heads], n_heads)


def split_other_style(x: Tensor, n_heads: int) -> Tensor:
    if x.shape[-1] % n_heads:
        raise ValueError(f"n_heads={n_heads} does not divide {x.shape[-1]}")
    batch_size, seq_len, width = x.shape
    return x.view(batch_size, seq_len, n_heads, width // n_heads).transpose(1, 2)


SPLIT_HEADS = Exercise(
    id="layers.heads.split_heads",
    lesson="02",
    title="Split into heads",
    task="Cut the H * Dh features of each token into H heads of Dh *neighbouring* features, and bring the heads to "
    "the front: (B, T, H * Dh) becomes (B, H, T, Dh). Take `rearrange`, or view and transpose. If `n_heads` does not "
    "divide the width, raise a ValueError that names `n_heads`.",
    difficulty=1,
    minutes=8,
    points=2,
    seed=25,
    hints=(
        "Two moves: first cut the last dimension in two, (B, T, H, Dh); then let T and H change places.",
        "In a `rearrange` pattern, brackets mean that a dimension is made of two: `(h d)` is h blocks of d neighbours. "
        "You must say how long `h` is.",
        "The remainder of width divided by `n_heads` is 0 if it divides.",
    ),
    cases=split_cases,
    oracle=split_by_slices,
    other_style=split_other_style,
    tolerance=MOVES_ONLY,
    mistakes=(
        Mistake(
            "no transpose",
            split_no_transpose,
            "The shape is right and the numbers are not: you reshape straight to (B, H, T, Dh), which mixes tokens. "
            "A reshape never moves a number. Cut into (B, T, H, Dh) first, then transpose T and H.",
        ),
        Mistake(
            "heads not in front",
            lambda x, n_heads: split_by_slices(x, n_heads).transpose(1, 2),
            "The cut is right, but the heads still stand behind the tokens, (B, T, H, Dh). Matrix products work on the "
            "last two dimensions, so these must be T and Dh: transpose.",
        ),
        Mistake(
            "every H-th feature",
            lambda x, n_heads: (
                rearrange(x, "b t (d h) -> b h t d", h=n_heads)
                if x.shape[-1] % n_heads == 0
                else split_by_slices(x, n_heads)
            ),
            "Your head 0 gets every H-th feature. A head is a block of *neighbouring* features: `(h d)`, the head "
            "comes first.",
        ),
        Mistake(
            "n_heads taken for head_dim",
            lambda x, n_heads: (
                rearrange(x, "b t (h d) -> b h t d", d=n_heads)
                if x.shape[-1] % n_heads == 0
                else split_by_slices(x, n_heads)
            ),
            "You make heads of `n_heads` features each. It is the other way round: `n_heads` is how many, and each has "
            "width / n_heads features.",
        ),
        Mistake(
            "features before tokens",
            lambda x, n_heads: split_by_slices(x, n_heads).transpose(2, 3),
            "The last two dimensions have changed places: (B, H, Dh, T). A head must look like a small sequence of its "
            "own, (T, Dh).",
        ),
        Mistake(
            "heads in the batch",
            lambda x, n_heads: split_by_slices(x, n_heads).flatten(0, 1),
            "You fold the heads into the batch, (B * H, T, Dh). Here they keep a dimension of their own, so that a "
            "mask can differ by batch row: (B, H, T, Dh).",
        ),
        Mistake(
            "refusal left to view",
            lambda x, n_heads: x.view(*x.shape[:2], n_heads, -1).transpose(1, 2),
            "The split is right. But for a width that is not a multiple of `n_heads` the caller gets an error of "
            "`view` about shapes that he has never seen: look first, and raise a ValueError that names `n_heads` and "
            "the width.",
        ),
        Mistake(
            "refusal left to rearrange",
            lambda x, n_heads: rearrange(x, "b t (h d) -> b h t d", h=n_heads),
            "The split is right. But for a width that is not a multiple of `n_heads` the caller gets an error about a "
            "pattern that he did not write: look first, and raise a ValueError that names `n_heads` and the width.",
        ),
        Mistake(
            "rest dropped",
            split_drops_rest,
            "If the width is not a multiple of `n_heads`, you drop the last features without a word. Raise a "
            "ValueError that names `n_heads` and the width.",
        ),
    ),
)


def merge_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    b, h, t, d = draw.sizes(4, 2, 6)
    yield (numbered(1, 2, 3, 2),), {}
    yield (draw.normal(b, h, t, d),), {}
    yield (draw.normal(b, t, h, d, dtype=torch.float64).transpose(1, 2),), {}
    yield (draw.normal(b, h, h, h),), {}
    yield (draw.normal(b, h + 1, t, d + 1),), {}


def merge_by_cat(x: Tensor) -> Tensor:
    return torch.cat([x[:, head] for head in range(x.shape[1])], dim=-1)


def merge_by_view(x: Tensor) -> Tensor:
    batch_size, n_heads, seq_len, head_dim = x.shape
    return x.transpose(1, 2).view(batch_size, seq_len, n_heads * head_dim)


def merge_other_style(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


MERGE_HEADS = Exercise(
    id="layers.heads.merge_heads",
    lesson="02",
    title="Merge the heads",
    task="The way back: put the heads of each token side by side, (B, H, T, Dh) becomes (B, T, H * Dh), so that "
    "`merge_heads(split_heads(x, n_heads))` is `x`.",
    difficulty=1,
    minutes=6,
    points=2,
    seed=26,
    hints=(
        "Undo the two moves of `split_heads` in the opposite order: first the transpose, then join two dimensions.",
        "After `transpose` the numbers do not lie in order in memory, and `view` refuses. `reshape` copies if it must; "
        "`rearrange` does as well.",
    ),
    cases=merge_cases,
    oracle=merge_by_cat,
    other_style=merge_other_style,
    tolerance=MOVES_ONLY,
    mistakes=(
        Mistake(
            "no transpose",
            lambda x: x.reshape(x.shape[0], x.shape[2], -1),
            "The shape is right and the numbers are not: without a transpose first, a token gets the features of "
            "*other tokens* of the same head. Bring T in front of H, then join.",
        ),
        Mistake(
            "view after transpose",
            merge_by_view,
            "After `transpose` the numbers no longer lie in order in memory, and `view` never copies. Use `reshape` "
            "(or `.contiguous()` before the view).",
        ),
        Mistake(
            "heads interleaved",
            lambda x: rearrange(x, "b h t d -> b t (d h)"),
            "The features of the heads are shuffled together like cards. Head 0 comes first with all its features, "
            "then head 1: `(h d)`.",
        ),
        Mistake(
            "features before tokens",
            lambda x: x.transpose(2, 3).reshape(x.shape[0], x.shape[2], -1),
            "You swap tokens with features. The pair to swap is heads and tokens, dimensions 1 and 2.",
        ),
        Mistake(
            "heads summed",
            lambda x: x.sum(1),
            "You add the heads up, so what each of them found can no longer be told apart. Put them side by side; "
            "mixing them is the work of w_o.",
        ),
        Mistake(
            "joined along tokens",
            lambda x: x.flatten(1, 2),
            "You put the heads one after another along the tokens, (B, H * T, Dh). They belong side by side in the "
            "features of the same token.",
        ),
    ),
)
