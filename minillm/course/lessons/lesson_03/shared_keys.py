r"""Fewer key/value heads than query heads: giving them out, and making them from many."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

COPIES = Tolerance(0.0, 0.0, "numbers are copied, never computed with")


def repeat_kv_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    yield (torch.arange(4).reshape(1, 2, 1, 2), 2), {}
    b, h, t, d = draw.sizes(4, 2, 6)
    yield (draw.normal(b, h, t, d), draw.size(2, 4)), {}
    yield (draw.normal(h, 3, d, t, dtype=torch.float64), 2), {}
    yield (draw.integers(0, 99, 2, 3, 3, 3), 3), {}  # equal axes: only the order of the numbers can show a mistake
    yield (draw.normal(b, h, t, d), 1), {}
    yield (draw.normal(b, 1, t, d), draw.size(2, 4)), {}


def repeat_head_by_head(x: Tensor, n_repeats: int) -> Tensor:
    return torch.stack([x[:, head // n_repeats] for head in range(x.shape[1] * n_repeats)], dim=1)


def repeat_by_expanding(x: Tensor, n_repeats: int) -> Tensor:
    return x[:, :, None].expand(-1, -1, n_repeats, -1, -1).flatten(1, 2)


def repeat_to_total(x: Tensor, n_repeats: int) -> Tensor:
    return x.repeat_interleave(max(n_repeats // x.shape[1], 1), dim=1)


REPEAT_KV = Exercise(
    id="layers.heads.repeat_kv",
    lesson="03",
    title="Give each key/value head to its group",
    task="There are Hk heads of keys (or values) and `n_repeats` times as many query heads. Make one head for each "
    "query head by copying: neighbouring query heads share, so for two heads and two repeats the order is 0 0 1 1.",
    difficulty=1,
    minutes=6,
    points=2,
    seed=31,
    hints=(
        "Which axis holds the heads? Nothing else may change.",
        "Query head h reads from key/value head h // n_repeats. Write down that list for Hk = 3 and n_repeats = 2.",
        "torch has two methods with nearly the same name: one lays the whole row of heads end to end, the other writes "
        "each head several times before it goes on. In einops, `(h r)` means that r runs fastest.",
    ),
    cases=repeat_kv_cases,
    oracle=repeat_head_by_head,
    other_style=repeat_by_expanding,
    tolerance=COPIES,
    mistakes=(
        Mistake(
            "repeat for repeat_interleave",
            lambda x, n_repeats: x.repeat(1, n_repeats, 1, 1),
            "The heads come out as 0 1 0 1, and 0 0 1 1 is wanted: that is `repeat` where `repeat_interleave` belongs. "
            "All shapes are right, and with one key/value head nothing shows, but query heads read from groups that "
            "they were not trained with.",
        ),
        Mistake(
            "tokens repeated",
            lambda x, n_repeats: x.repeat_interleave(n_repeats, dim=2),
            "You repeat along the tokens: each key now stands in the sequence several times. The heads are axis 1.",
        ),
        Mistake(
            "features repeated",
            lambda x, n_repeats: x.repeat_interleave(n_repeats, dim=-1),
            "You repeat along the features, so that every key gets wider. The heads are axis 1.",
        ),
        Mistake(
            "batch repeated",
            lambda x, n_repeats: x.repeat_interleave(n_repeats, dim=0),
            "You repeat along the batch: each sequence now stands there several times. The heads are axis 1, counted "
            "from 0.",
        ),
        Mistake(
            "not flattened",
            lambda x, n_repeats: x[:, :, None].expand(-1, -1, n_repeats, -1, -1),
            "The copies stand in an axis of their own: (B, Hk, n_repeats, T, Dh). Join the two axes of heads to one.",
        ),
        Mistake(
            "n_repeats taken for the total",
            repeat_to_total,
            "You take `n_repeats` for the number of heads that shall come out. It is how often each head is used: "
            "H / Hk.",
        ),
        Mistake(
            "nothing repeated",
            lambda x, n_repeats: x,
            "You give back the Hk heads as they are. The query heads are `n_repeats` times as many, and each needs a "
            "partner.",
        ),
    ),
)


def pool_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    d, width, n = draw.sizes(3, 2, 7)
    yield (torch.arange(8.0).reshape(4, 2), 4, 2), {}
    yield (draw.normal(6 * d, width), 6, 2), {}
    yield (draw.normal(6 * d, width, dtype=torch.float64), 6, 3), {}
    yield (draw.normal(4 * d, n), 4, 1), {}
    yield (draw.normal(n * d, width), n, n), {}
    yield (draw.normal(6 * d), 6, 2), {}  # a bias
    yield (draw.normal(6 * d, width), 6, 4), {}  # to be refused


def pool_row_by_row(weight: Tensor, n_heads: int, n_kv_heads: int) -> Tensor:
    if weight.shape[0] % n_heads or n_heads % n_kv_heads:
        raise ValueError(f"n_kv_heads={n_kv_heads} does not fit n_heads={n_heads} and {tuple(weight.shape)}")
    width, size = weight.shape[0] // n_heads, n_heads // n_kv_heads
    out = torch.zeros(n_kv_heads * width, *weight.shape[1:], dtype=torch.float64)
    for row in range(weight.shape[0]):
        head, feature = divmod(row, width)
        out[head // size * width + feature] += weight[row].double() / size
    return out.to(weight.dtype)


def pool_other_style(weight: Tensor, n_heads: int, n_kv_heads: int) -> Tensor:
    if n_heads % n_kv_heads:
        raise ValueError(f"n_kv_heads={n_kv_heads}: use a divisor of n_heads={n_heads}")
    heads = weight.reshape(n_heads, -1, *weight.shape[1:])
    groups = [part.mean(dim=0) for part in heads.chunk(n_kv_heads)]
    return torch.cat(groups)


def pool_with(rule: Any) -> Any:
    r"""Another rule for the heads of a group, (Hk, H / Hk, Dh, ...) -> (Hk, Dh, ...)."""

    def wrong(weight: Tensor, n_heads: int, n_kv_heads: int) -> Tensor:
        if n_heads % n_kv_heads:
            raise ValueError(f"n_kv_heads={n_kv_heads}: use a divisor of n_heads={n_heads}")
        return rule(weight.unflatten(0, (n_kv_heads, n_heads // n_kv_heads, -1))).flatten(0, 1)

    return wrong


def pool_far_heads(weight: Tensor, n_heads: int, n_kv_heads: int) -> Tensor:
    if n_heads % n_kv_heads:
        raise ValueError(f"n_kv_heads={n_kv_heads}: use a divisor of n_heads={n_heads}")
    return weight.unflatten(0, (n_heads // n_kv_heads, n_kv_heads, -1)).mean(dim=0).flatten(0, 1)


def pool_neighbouring_rows(weight: Tensor, n_heads: int, n_kv_heads: int) -> Tensor:
    if n_heads % n_kv_heads:
        raise ValueError(f"n_kv_heads={n_kv_heads}: use a divisor of n_heads={n_heads}")
    return weight.unflatten(0, (-1, n_heads // n_kv_heads)).mean(dim=1)


MEAN_POOL_KV = Exercise(
    id="layers.gqa_conversion.mean_pool_kv",
    lesson="03",
    title="From many key heads to few",
    task="A finished model has H heads of keys; you want Hk. Replace each group of H / Hk *neighbouring* heads by "
    "their mean, feature by feature. `weight` is k_proj's or v_proj's, (H * Dh, D): the first Dh rows make head 0. A "
    "bias, (H * Dh,), works the same way. If Hk does not divide H, raise a ValueError that names `n_kv_heads`.",
    difficulty=1,
    minutes=8,
    points=2,
    seed=32,
    hints=(
        "What are the sizes of the three parts of H * Dh = Hk * (heads in a group) * Dh, from the slowest to the "
        "fastest?",
        "`unflatten(0, (a, b, c))` cuts the rows into three axes, and one of them may be -1. Which axis is averaged?",
        "Afterwards two axes are left in front, groups and features; `flatten(0, 1)` joins them to rows again.",
    ),
    cases=pool_cases,
    oracle=pool_row_by_row,
    other_style=pool_other_style,
    mistakes=(
        Mistake(
            "sum instead of mean",
            pool_with(lambda heads: heads.sum(dim=1)),
            "You add the heads up. Scores then grow with the size of the group, and softmax gets sharper than the "
            "model was trained for. Take the mean.",
        ),
        Mistake(
            "first head of each group",
            pool_with(lambda heads: heads[:, 0]),
            "You keep the first head of each group and throw the others away. That is the baseline which mean pooling "
            "beat in the paper (Ainslie et al. 2023, figure 4).",
        ),
        Mistake(
            "heads far apart",
            pool_far_heads,
            "You average heads 0, Hk, 2 Hk, ... A group is heads that are *neighbours*, because `repeat_kv` gives one "
            "key head to neighbouring query heads.",
        ),
        Mistake(
            "rows instead of heads",
            pool_neighbouring_rows,
            "You average neighbouring rows, which are features of one head. Average feature 0 of one head with feature "
            "0 of the next: cut the rows into heads first.",
        ),
        Mistake(
            "features averaged away",
            pool_with(lambda heads: heads.mean(dim=2)),
            "You average over the features of each head. A head keeps its Dh features; it is the heads of a group that "
            "become one.",
        ),
        Mistake(
            "all groups the same",
            pool_with(lambda heads: heads.mean(dim=(0, 1)).expand(heads.shape[0], *heads.shape[2:])),
            "You average over all heads and give every group the same mean: that is multi-query attention, stored "
            "several times.",
        ),
        Mistake(
            "bad number accepted",
            lambda weight, n_heads, n_kv_heads: (
                weight.clone() if n_heads % n_kv_heads else pool_row_by_row(weight, n_heads, n_kv_heads)
            ),
            "Six heads cannot make four equal groups, and you let that pass. Raise a ValueError that names "
            "`n_kv_heads`.",
        ),
    ),
)
