r"""T5's buckets: near distances one by one, far ones together."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.draw import Draw


def bucket_setting(draw: Draw) -> dict[str, int]:
    r"""Numbers of buckets and a furthest distance whose bucket edges stay clear of whole distances.

    At an edge that is a whole number, float32 and float64 may put that distance into different buckets.
    """
    while True:
        n_buckets, max_distance = 4 * draw.size(2, 9), draw.size(40, 200)
        edges = [
            n_exact * (max_distance / n_exact) ** (k / n_far)
            for n_exact, n_far in ((n_buckets // 2, n_buckets // 2), (n_buckets // 4, n_buckets // 4))
            for k in range(1, n_far)
        ]
        if all(abs(edge - round(edge)) > 1e-3 for edge in edges):
            return {"n_buckets": n_buckets, "max_distance": max_distance}


def t5_bucket_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    t, n = draw.sizes(2, 3, 7)
    spread = torch.tensor([-3000, -200, -128, -127, -60, -33, -16, -15, -7, -1, 0, 1, 6, 15, 16, 40, 90, 128, 4000])
    yield (torch.tensor([0, -1, -2, -15, -16, -40]),), {}
    yield (spread,), {}
    yield (spread, 32, 128, True), {}
    for bidirectional in (False, True):
        yield (draw.integers(-300, 300, t, n),), {**bucket_setting(draw), "bidirectional": bidirectional}
    yield (torch.cat([spread, draw.integers(-80, 80, 9)]),), {**bucket_setting(draw), "bidirectional": True}
    yield (torch.arange(3),), {"n_buckets": 1}  # these two are to be refused
    yield (torch.arange(3),), {"n_buckets": 32, "max_distance": 16}


def bucket_by(
    part: Callable[[int, int, int, int], int], way: Callable[[int, int, bool], tuple[int, int]]
) -> Callable[..., Tensor]:
    r"""A bucket function by loops: `way` gives (offset, distance), `part` the bucket of a distance in its direction."""

    def function(
        relative_position: Tensor, n_buckets: int = 32, max_distance: int = 128, bidirectional: bool = False
    ) -> Tensor:
        n_each = n_buckets // 2 if bidirectional else n_buckets
        if n_each < 2 or max_distance <= n_each // 2:
            raise ValueError(f"n_buckets={n_buckets}, max_distance={max_distance}: more of them")
        found = []
        for ahead in relative_position.flatten().tolist():
            offset, distance = way(ahead, n_each, bidirectional)
            found.append(offset + part(distance, n_each, n_each // 2, max_distance))
        return torch.tensor(found).reshape(relative_position.shape)

    return function


def right_part(distance: int, n_each: int, n_exact: int, max_distance: int) -> int:
    if distance < n_exact:
        return distance
    far = n_exact + int(math.log(distance / n_exact) / math.log(max_distance / n_exact) * (n_each - n_exact) + 1e-9)
    return min(far, n_each - 1)


def right_way(ahead: int, n_each: int, bidirectional: bool) -> tuple[int, int]:
    if not bidirectional:
        return 0, max(-ahead, 0)
    return (n_each, ahead) if ahead > 0 else (0, -ahead)


def t5_bucket_other_style(
    relative_position: Tensor, n_buckets: int = 32, max_distance: int = 128, bidirectional: bool = False
) -> Tensor:
    n_each = n_buckets // 2 if bidirectional else n_buckets
    n_exact = n_each // 2
    if n_exact < 1 or max_distance <= n_exact:
        raise ValueError(f"n_buckets={n_buckets}, max_distance={max_distance}: use more")
    steps = torch.arange(1, n_each - n_exact, dtype=torch.float64) / (n_each - n_exact)
    edges = torch.cat([torch.arange(1, n_exact + 1).double(), n_exact * (max_distance / n_exact) ** steps])
    behind, ahead = (-relative_position).clamp(min=0), relative_position.clamp(min=0)
    buckets = torch.bucketize((behind + ahead if bidirectional else behind).double(), edges, right=True)
    return buckets + n_each * (ahead > 0) if bidirectional else buckets


def all_logarithmic(distance: int, n_each: int, n_exact: int, max_distance: int) -> int:
    return min(int(math.log(max(distance, 1)) / math.log(max_distance) * n_each), n_each - 1)


def rounded_part(distance: int, n_each: int, n_exact: int, max_distance: int) -> int:
    if distance < n_exact:
        return distance
    share = math.log(distance / n_exact) / math.log(max_distance / n_exact)
    return min(n_exact + round(share * (n_each - n_exact)), n_each - 1)


def without_last(distance: int, n_each: int, n_exact: int, max_distance: int) -> int:
    share = math.log(max(distance, n_exact) / n_exact) / math.log(max_distance / n_exact)
    return distance if distance < n_exact else n_exact + int(share * (n_each - n_exact) + 1e-9)


def whole_logarithm(distance: int, n_each: int, n_exact: int, max_distance: int) -> int:
    share = math.log(max(distance, n_exact) / n_exact) / math.log(max_distance)
    return distance if distance < n_exact else min(n_exact + int(share * (n_each - n_exact)), n_each - 1)


def linear_far(distance: int, n_each: int, n_exact: int, max_distance: int) -> int:
    share = (distance - n_exact) / (max_distance - n_exact)
    return distance if distance < n_exact else min(n_exact + int(share * (n_each - n_exact)), n_each - 1)


T5_BUCKET = Exercise(
    id="layers.t5_bias.t5_bucket",
    lesson="04",
    title="Buckets of distances",
    task="Sort distances into buckets. `relative_position` is the key's position minus the query's. In each direction "
    "there are n buckets: the first n // 2 take the distances 0, 1, 2, ... one each. The others share what is further, "
    "up to `max_distance`, in equal steps of the *logarithm* (rounded down); the last one also takes everything "
    "beyond. A causal model has one direction, the past (n = n_buckets; a later key counts as distance 0). A "
    "bidirectional one has n = n_buckets // 2 for each: the past (with distance 0) first, then the future.",
    difficulty=3,
    minutes=18,
    points=3,
    seed=45,
    hints=(
        "Begin with the causal case: a distance is minus the relative position, and at least 0.",
        "How far along the logarithm is a distance d between n // 2 and max_distance? A share of "
        "log(d / (n // 2)) / log(max_distance / (n // 2)): 0 at the one end, 1 at the other.",
        "The logarithm of 0 is -inf, and as an integer it is anything. Compute both parts for every distance, with a "
        "harmless one in place of 0, and choose with `torch.where`.",
    ),
    cases=t5_bucket_cases,
    oracle=bucket_by(right_part, right_way),
    other_style=t5_bucket_other_style,
    mistakes=(
        Mistake(
            "looks the wrong way",
            bucket_by(right_part, lambda ahead, n, both: right_way(-ahead, n, both)),
            "Past and future have changed places. `relative_position` is the key's position minus the query's: "
            "negative means that the key stands *before* the query.",
        ),
        Mistake(
            "absolute distance without two directions",
            bucket_by(right_part, lambda ahead, n, both: right_way(ahead, n, both) if both else (0, abs(ahead))),
            "Without `bidirectional` a key after the query counts as distance 0. You take the absolute value there, so "
            "that the key three tokens ahead and the key three tokens behind look alike.",
        ),
        Mistake(
            "directions mixed",
            bucket_by(right_part, lambda ahead, n, both: (0, abs(ahead) if both else max(-ahead, 0))),
            "With `bidirectional` past and future must have buckets of their own: you put a key three tokens ahead and "
            "one three tokens behind into the same. Add n_buckets // 2 for keys after the query.",
        ),
        Mistake(
            "future first",
            bucket_by(
                right_part,
                lambda ahead, n, both: (n if both and ahead <= 0 else 0, abs(ahead) if both else max(-ahead, 0)),
            ),
            "You give the upper half of the buckets to the past. The numbers are a convention, but trained weights "
            "hang on it: the past, and distance 0, have the lower half.",
        ),
        Mistake(
            "all buckets for both directions",
            lambda relative_position, n_buckets=32, max_distance=128, bidirectional=False: bucket_by(
                right_part, right_way
            )(relative_position, n_buckets * (2 if bidirectional else 1), max_distance, bidirectional),
            "With `bidirectional` each direction has n_buckets // 2 buckets. You give n_buckets to each, and half of "
            "the numbers lie outside the table of trained biases.",
        ),
        Mistake(
            "every distance its own bucket",
            bucket_by(lambda distance, n, exact, furthest: min(distance, n - 1), right_way),
            "You cut the distance off at the last bucket. That is Shaw's clipping; here only the first half of the "
            "buckets has one distance each, and the second half reaches on to `max_distance` in growing steps.",
        ),
        Mistake(
            "all buckets logarithmic",
            bucket_by(all_logarithmic, right_way),
            "All your buckets grow. The first half does not: distances below n // 2 have a bucket each, because to a "
            "reader the word before and the word before that are very different things.",
        ),
        Mistake(
            "equal steps to the far end",
            bucket_by(linear_far, right_way),
            "Your far buckets are equally wide. Their steps are equal in the *logarithm* of the distance: fine where "
            "they begin, coarse at `max_distance`.",
        ),
        Mistake(
            "wrong logarithm",
            bucket_by(whole_logarithm, right_way),
            "Your share does not reach 1 at `max_distance`: divide by log(max_distance / (n // 2)), the whole length "
            "of the logarithmic part, not by log(max_distance).",
        ),
        Mistake(
            "rounded to the nearest",
            bucket_by(rounded_part, right_way),
            "You round to the nearest bucket. Round *down*: the first shared bucket begins at distance n // 2, and "
            "rounding would leave it half its width.",
        ),
        Mistake(
            "no end",
            bucket_by(without_last, right_way),
            "From `max_distance` on your numbers go on growing, past the last row of the table. The last bucket takes "
            "everything beyond: cap it at n - 1.",
        ),
    ),
)
