r"""A support vector machine, trained by moving two points at a time."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Kernel = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Svm:
    r"""A trained machine: f(x) = sum_i weights_i k(points_i, x) + bias.

    Args:
        kernel: of (N, D) and (M, D), gives (N, M).
        points: the training points, (N, D).
        weights: alpha_i times the label, (N,); 0 for all but the support vectors.
        bias: b.
        gap: by how much the conditions of the optimum are still missed.
        steps: pairs that were moved.
    """

    kernel: Kernel
    points: Tensor
    weights: Tensor
    bias: float
    gap: float
    steps: int

    def decision(self, x: Float[Tensor, "M D"]) -> Float[Tensor, "M"]:
        r"""The signed distance from the border, in units of half the margin.

        Args:
            x: points, (M, D).
        Returns: f(x), positive for class 1; 1 and -1 are the edges of the margin.
        """
        return self.weights @ self.kernel(self.points, x) + self.bias

    @property
    def support(self) -> Tensor:
        r"""Which points carry weight, bool, (N,)."""
        return self.weights.abs() > 1e-9

    @property
    def margin(self) -> float:
        r"""Half the width of the street between the classes, 1 / |w|, in the kernel's space."""
        return float((self.weights @ self.kernel(self.points, self.points) @ self.weights).clamp(min=1e-30) ** -0.5)


def fit_svm(
    points: Float[Tensor, "N D"],
    labels: Float[Tensor, "N"],
    kernel: Kernel,
    penalty: float = 1.0,
    tolerance: float = 1e-3,
    most_steps: int = 20000,
) -> Svm:
    r"""Find the widest street between two classes.

    The dual problem: maximize sum_i alpha_i - 1/2 |w|^2 with w = sum_i alpha_i y_i phi(x_i), 0 <= alpha_i <= C and
    sum_i alpha_i y_i = 0. Points appear in it only through k(x_i, x_j). Here weights_i = alpha_i y_i, and each step
    moves weight from the point that wants it least to the one that wants it most, as far as is best and allowed.

    Args:
        points: (N, D).
        labels: 1 or -1 each, both present.
        kernel: of (N, D) and (M, D), gives (N, M).
        penalty: C, the largest weight of a point: large punishes each error, small prefers a wide street.
        tolerance: of the gap at which it stops.
        most_steps: after which it stops in any case.
    Returns: the machine.
    Raises:
        ValueError: if the labels are not 1 and -1, both present, or the penalty is not above 0.
    Source: Platt 1998, Sequential Minimal Optimization; Keerthi et al. 2001 (the pair that violates most).
    """
    if sorted(set(labels.tolist())) != [-1.0, 1.0]:
        raise ValueError(f"labels are {sorted(set(labels.tolist()))}; use -1 and 1, and both of them")
    if not penalty > 0:
        raise ValueError(f"penalty={penalty}: choose a number above 0")
    x, y = points.double(), labels.double()
    gram = kernel(x, x)
    lower, upper = (penalty * y).clamp(max=0), (penalty * y).clamp(min=0)
    weights, errors = torch.zeros_like(y), y.clone()  # errors_k = y_k - sum_i weights_i k(x_i, x_k)
    gap, step = float("inf"), 0
    while step < most_steps:
        i = int(errors.masked_fill(weights >= upper, -torch.inf).argmax())
        j = int(errors.masked_fill(weights <= lower, torch.inf).argmin())
        gap = float(errors[i] - errors[j])
        if gap <= tolerance:
            break
        curvature = max(float(gram[i, i] + gram[j, j] - 2 * gram[i, j]), 1e-12)
        up, down = float(upper[i] - weights[i]), float(weights[j] - lower[j])
        moved = min(gap / curvature, up, down)
        weights[i] = upper[i] if moved == up else min(weights[i] + moved, upper[i])
        weights[j] = lower[j] if moved == down else max(weights[j] - moved, lower[j])
        errors -= moved * (gram[i] - gram[j])
        step += 1
    bias = float(errors[i] + errors[j]) / 2
    return Svm(kernel, x, weights, bias, max(gap, 0.0), step)


def accuracy(machine: Svm, points: Float[Tensor, "M D"], labels: Float[Tensor, "M"]) -> float:
    r"""Count how often the sign is right.

    Args:
        machine: trained.
        points: (M, D).
        labels: 1 or -1 each.
    Returns: a share, 0 to 1.
    """
    return float((machine.decision(points.double()).sign() == labels).double().mean())
