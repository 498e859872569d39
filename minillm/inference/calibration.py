r"""Does a model know how sure it may be? Confidence against the share that is right."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minillm.layers import loss

HOTTEST, COLDEST = 100.0, 0.01  # temperatures between which the best is looked for


@dataclass(frozen=True)
class Bin:
    r"""The answers that were given with about the same confidence.

    Args:
        low: the bin holds confidences from here,
        high: to here, this one excluded but in the last bin.
        count: answers.
        confidence: their mean confidence.
        accuracy: share of them that is right.
    Lesson: 16.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def require_probabilities(confidences: Float[Tensor, "N"], n_bins: int) -> None:
    r"""Refuse what cannot be sorted into bins.

    Args:
        confidences: (N,), float.
        n_bins: how many bins.
    Raises:
        ValueError: if there is no answer or no bin, or a confidence is not between 0 and 1.
    Lesson: 16.
    """
    if n_bins < 1:
        raise ValueError(f"n_bins={n_bins}: use at least 1")
    if len(confidences) == 0:
        raise ValueError("confidences is empty: give at least one answer")
    if not bool(((confidences >= 0) & (confidences <= 1)).all()):
        worst = confidences[int((confidences - 0.5).abs().argmax())]
        raise ValueError(f"confidences holds {float(worst)}: give probabilities, 0 to 1")


def calibration_bins(confidences: Float[Tensor, "N"], correct: Bool[Tensor, "N"], n_bins: int = 10) -> list[Bin]:
    r"""Sort answers by confidence into bins of one width, and see how often each bin is right.

    Args:
        confidences: (N,), float, 0 to 1.
        correct: (N,), bool.
        n_bins: bins between 0 and 1, at least 1; bin i holds i / n_bins <= confidence < (i + 1) / n_bins, the last one
            1 as well.
    Returns: the bins that hold anything, the least confident first.
    Raises:
        ValueError: if there is no answer or no bin, or a confidence is not between 0 and 1.
    Source: DeGroot and Fienberg 1983, The Comparison and Evaluation of Forecasters.
    Lesson: 16.
    """
    require_probabilities(confidences, n_bins)
    number = (confidences * n_bins).long().clamp(max=n_bins - 1)
    bins = []
    for i in number.unique().tolist():
        inside = number == i
        bins.append(Bin(i / n_bins, (i + 1) / n_bins, int(inside.sum()), float(confidences[inside].double().mean()),
                        float(correct[inside].double().mean())))
    return bins


def expected_calibration_error(
    confidences: Float[Tensor, "N"], correct: Bool[Tensor, "N"], n_bins: int = 10
) -> float:
    r"""How far confidence and accuracy are apart: in each bin of confidences, and averaged over all answers.

    Args:
        confidences: (N,), float, 0 to 1: how sure the model was of each answer.
        correct: (N,), bool: whether the answer was right.
        n_bins: bins of one width between 0 and 1, at least 1; bin i holds i / n_bins <= confidence < (i + 1) / n_bins,
            the last one 1 as well.
    Returns: 0 (as sure as it may be) to 1.
    Raises:
        ValueError: if there is no answer or no bin, or a confidence is not between 0 and 1.
    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, eq. 3 (whose bins are open on the left).
    Lesson: 16.
    """
    require_probabilities(confidences, n_bins)
    number = (confidences * n_bins).long().clamp(max=n_bins - 1)
    excess = torch.zeros(n_bins, dtype=torch.float64, device=confidences.device)
    excess.index_add_(0, number, confidences.double() - correct.double())
    return float(excess.abs().sum() / len(confidences))


def top_choices(
    logits: Float[Tensor, "*b V"], targets: Int[Tensor, "*b"]
) -> tuple[Float[Tensor, "N"], Bool[Tensor, "N"]]:
    r"""The likeliest token at each counted place: how likely it was, and whether it was the right one.

    Args:
        logits: (..., V), float.
        targets: (...), int64; -100 = not counted.
    Returns: confidences (N,), float32, and whether they were right, (N,), bool.
    Lesson: 16.
    """
    counted = targets != loss.IGNORED
    confidences, choices = logits[counted].float().softmax(dim=-1).max(dim=-1)
    return confidences, choices == targets[counted]


def fit_temperature(logits: Float[Tensor, "N V"], targets: Int[Tensor, "N"]) -> float:
    r"""The temperature at which a model's probabilities fit what happens best, by the mean surprise of the targets.

    It changes no answer, only how sure the model is. The surprise is convex in 1 / temperature, so its slope changes
    sign once, and halving finds the place.

    Args:
        logits: (N, V), float.
        targets: (N,), int64.
    Returns: above 1 if the model was too sure; between 0.01 and 100.
    Source: Guo et al. 2017, section 4.2, "Temperature scaling". They fit by gradient descent.
    Lesson: 16.
    """
    x = logits.double()
    low, high = 1 / HOTTEST, 1 / COLDEST  # of the inverse temperature
    for _ in range(50):
        middle = (low * high) ** 0.5
        expected = ((x * middle).softmax(dim=-1) * x).sum(dim=-1)
        slope = float((expected - x.gather(1, targets[:, None])[:, 0]).mean())
        low, high = (middle, high) if slope < 0 else (low, middle)
    return (low * high) ** -0.5
