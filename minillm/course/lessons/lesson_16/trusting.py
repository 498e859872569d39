r"""As sure as it may be: the expected calibration error."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.draw import Draw

Case = tuple[tuple[Any, ...], dict[str, Any]]
Pairs = list[tuple[float, bool]]
# The pairs of each bin (a list of lists), and the number of all answers.
Gap = Callable[[list[Pairs], int], float]


def calibration_cases(draw: Draw) -> Iterator[Case]:
    yield (torch.tensor([0.9, 0.9, 0.9, 0.9, 0.3]), torch.tensor([True, True, False, False, False])), {}
    yield (*answers(draw, draw.size(80, 120)),), {}
    yield (*answers(draw, draw.size(60, 90), torch.float64),), {"n_bins": draw.size(3, 5)}
    yield (*answers(draw, draw.size(60, 90)), 16), {}
    yield (torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0]), torch.tensor([True, False, False, True, True]), 4), {}
    yield (torch.tensor([0.5, 0.55, 0.25, 0.3, 0.75]), torch.tensor([False, True, True, False, True]), 4), {}
    yield (*answers(draw, 40), 1), {}
    yield (torch.tensor([0.5, 1.0 + draw.size(1, 9)]), torch.tensor([True, False])), {}  # to be refused


def answers(draw: Draw, count: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    r"""Confidences off all edges of bins, too high above and too low below; more of them at the top."""
    steps = draw.integers(0, 999, count).maximum(draw.integers(0, 999, count))
    confidences = (steps + 0.5) / 1000.0
    share = torch.where(confidences > 0.6, confidences - 0.3, (confidences + 0.25).clamp(max=1))
    correct = torch.rand(count, generator=draw.generator) < share
    return confidences.to(dtype), correct


def refuse_other_than_probabilities(confidences: Tensor) -> None:
    if not all(0 <= c <= 1 for c in confidences.tolist()):
        raise ValueError("confidences: probabilities are 0 to 1")


def mean_gap(pairs: Pairs) -> float:
    r"""Mean confidence less the share that is right."""
    return math.fsum(c - right for c, right in pairs) / len(pairs)


def weighted_gaps(bins: list[Pairs], count: int) -> float:
    return math.fsum(len(pairs) * abs(mean_gap(pairs)) for pairs in bins) / count


def width_bins(pairs: Pairs, n_bins: int) -> list[Pairs]:
    r"""Go through the bins, and look which confidences lie in each."""
    edges = [i / n_bins for i in range(n_bins + 1)]
    return [[(c, right) for c, right in pairs if edges[i] <= c < edges[i + 1] or (i == n_bins - 1 and c == 1)]
            for i in range(n_bins)]


def binned(
    gap: Gap = weighted_gaps,
    bins: Callable[[Pairs, int], list[Pairs]] = width_bins,
    refuse: Callable[[Tensor], None] = refuse_other_than_probabilities,
) -> Callable[..., float]:
    r"""An error from the bins that hold anything, with one thing done in another way."""

    def error(confidences: Tensor, correct: Tensor, n_bins: int = 10) -> float:
        refuse(confidences)
        pairs = list(zip(confidences.tolist(), correct.tolist(), strict=True))
        return float(gap([each for each in bins(pairs, n_bins) if each], len(pairs)))

    return error


def sorted_and_split(confidences: Tensor, correct: Tensor, n_bins: int = 10) -> float:
    if bool(((confidences < 0) | (confidences > 1)).any()):
        raise ValueError("confidences must lie between 0 and 1")
    edges = torch.arange(1, n_bins, dtype=torch.float64) / n_bins
    number = torch.bucketize(confidences.double(), edges, right=True)
    gaps = torch.stack([((confidences.double() - correct.double()) * (number == i)).sum() for i in range(n_bins)])
    return float(gaps.abs().sum()) / len(confidences)


def equal_counts(pairs: Pairs, n_bins: int) -> list[Pairs]:
    ordered = sorted(pairs)
    return [ordered[len(ordered) * i // n_bins : len(ordered) * (i + 1) // n_bins] for i in range(n_bins)]


def last_edge_lost(pairs: Pairs, n_bins: int) -> list[Pairs]:
    return [[(c, right) for c, right in pairs if i / n_bins <= c < (i + 1) / n_bins] for i in range(n_bins)]


def edges_below(pairs: Pairs, n_bins: int) -> list[Pairs]:
    return [[(c, right) for c, right in pairs if i / n_bins < c <= (i + 1) / n_bins or (i == 0 and c == 0)]
            for i in range(n_bins)]


def nearest_bin(pairs: Pairs, n_bins: int) -> list[Pairs]:
    return [[(c, right) for c, right in pairs if round(c * n_bins) == i] for i in range(n_bins + 1)]


def middles(pairs: Pairs, n_bins: int) -> list[Pairs]:
    return [[((i + 0.5) / n_bins, right) for _, right in each] for i, each in enumerate(width_bins(pairs, n_bins))]


EXPECTED_CALIBRATION_ERROR = Exercise(
    id="inference.calibration.expected_calibration_error",
    lesson="16",
    title="Calibration",
    task="A model was `confidences` (N,) sure of its answers, and `correct` (N,) says which were right. Sort the "
    "answers by confidence into `n_bins` bins of the same width; bin i holds i / n_bins <= confidence < (i + 1) / "
    "n_bins, the last one 1.0 as well. In each bin take the distance between mean confidence and share of right "
    "answers. The result, a Python float, is the mean of these distances, in which each bin counts as often as it has "
    "answers. A confidence outside 0 to 1 must be refused with a ValueError.",
    difficulty=2,
    minutes=15,
    points=3,
    seed=165,
    hints=(
        "Five answers: four with confidence 0.9, two of them right, and one with 0.3 that is wrong. What is the "
        "distance in each of the two bins, and what the mean that counts the first four times?",
        "`(confidences * n_bins).long()` gives the number of the bin. For which confidence is that too large?",
        "Within a bin, mean confidence less share right is the mean of (confidence - correct). Weighted with the bin's "
        "size and divided by N, the sizes drop out: sum in each bin, absolute values, sum, divide by N.",
    ),
    cases=calibration_cases,
    oracle=binned(),
    other_style=sorted_and_split,
    mistakes=(
        Mistake(
            "bins count the same",
            binned(gap=lambda bins, count: math.fsum(abs(mean_gap(pairs)) for pairs in bins) / len(bins)),
            "You average over bins as if they were equally full. A bin with one answer then counts as much as one with "
            "a thousand: weight each by the share of answers in it.",
        ),
        Mistake(
            "signs cancel",
            binned(gap=lambda bins, count: abs(math.fsum(len(pairs) * mean_gap(pairs) for pairs in bins)) / count),
            "You add the distances with their signs: a model that is too sure in one place and not sure enough in "
            "another looks perfect. Take the absolute value in each bin.",
        ),
        Mistake(
            "per answer",
            binned(gap=lambda bins, count: math.fsum(abs(c - right) for pairs in bins for c, right in pairs) / count),
            "You compare each answer with its own confidence. One answer is right or wrong, never 70 % right: only the "
            "share in a bin can match a confidence.",
        ),
        Mistake(
            "squared",
            binned(gap=lambda bins, count: math.fsum(len(p) * mean_gap(p) ** 2 for p in bins) / count),
            "You square the distances. The expected calibration error takes them as they are, so that it can be read: "
            "0.1 means ten points off on average.",
        ),
        Mistake(
            "Brier score",
            binned(gap=lambda bins, count: math.fsum((c - r) ** 2 for pairs in bins for c, r in pairs) / count),
            "This is the Brier score, the mean square of confidence less outcome. It measures accuracy as well as "
            "calibration, and is not 0 for a model that is exactly as sure as it may be.",
        ),
        Mistake(
            "largest distance",
            binned(gap=lambda bins, count: max(abs(mean_gap(pairs)) for pairs in bins)),
            "You take the largest distance: the maximum calibration error. The expected one is a mean over answers.",
        ),
        Mistake(
            "summed",
            binned(gap=lambda bins, count: math.fsum(abs(mean_gap(pairs)) for pairs in bins)),
            "You add the bins' distances up, unweighted: with more bins the number grows, beyond 1 even. Weight each "
            "with its share of the answers.",
        ),
        Mistake(
            "divided by the bins",
            binned(gap=lambda bins, count: weighted_gaps(bins, count) / max(len(bins), 1)),
            "The weights sum to 1 already, and you divide by the number of bins besides.",
        ),
        Mistake(
            "confidence of 1 lost",
            binned(bins=last_edge_lost),
            "Answers with a confidence of exactly 1 fall into no bin, and those are the ones that a model is surest "
            "of. They belong into the last.",
        ),
        Mistake(
            "edges belong below",
            binned(bins=edges_below),
            "A confidence exactly on an edge goes into the bin below with you, as in Guo et al.; here the lower edge "
            "belongs to a bin. It matters where confidences are round numbers, like 0.5 of two choices.",
        ),
        Mistake(
            "bins of equal counts",
            binned(bins=equal_counts),
            "Your bins hold the same number of answers each. That is another error, the adaptive one; here all bins "
            "are equally wide.",
        ),
        Mistake(
            "rounded",
            binned(bins=nearest_bin),
            "You round to the nearest number of a bin. That moves all edges by half a bin, and makes one bin too many; "
            "round down.",
        ),
        Mistake(
            "always ten bins",
            lambda confidences, correct, n_bins=10: binned()(confidences, correct, 10),
            "`n_bins` makes no difference: there are always ten bins.",
        ),
        Mistake(
            "middle of the bin",
            binned(bins=middles),
            "You compare with the middle of each bin. Its answers need not lie around the middle: take the mean of "
            "their confidences.",
        ),
        Mistake(
            "too sure to be true",
            binned(bins=lambda pairs, n: width_bins([(min(c, 1.0), r) for c, r in pairs], n), refuse=lambda c: None),
            "A confidence above 1 goes through. Somebody has handed over logits, or percent: raise a ValueError before "
            "they believe the result.",
        ),
    ),
)
