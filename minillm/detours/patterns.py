r"""Points of two classes in the plane that no straight line can part."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Labelled = tuple[Tensor, Tensor]


def two_circles(n: int, generator: torch.Generator, spread: float = 0.1) -> Labelled:
    r"""Draw points on two circles about one centre, radius 0.45 (label 1) and 1 (label -1), in turn.

    Args:
        n: how many.
        generator: draws them.
        spread: standard deviation of their distance from the circle.
    Returns: points (n, 2) in float64 and labels (n,).
    """
    labels = _in_turn(n)
    angles = 2 * math.pi * torch.rand(n, generator=generator, dtype=torch.float64)
    radii = torch.where(labels > 0, 0.45, 1.0)
    return _spread(torch.stack([radii * angles.cos(), radii * angles.sin()], dim=1), generator, spread), labels


def four_corners(n: int, generator: torch.Generator, spread: float = 0.25) -> Labelled:
    r"""Draw points about the corners of a square; the label is the sign of the product of a corner's coordinates.

    Args:
        n: how many.
        generator: draws them.
        spread: standard deviation about the corner.
    Returns: points (n, 2) in float64 and labels (n,).
    """
    number = torch.arange(n)
    first = 1.0 - 2.0 * (number // 2 % 2).double()
    second = first * _in_turn(n)
    return _spread(0.8 * torch.stack([first, second], dim=1), generator, spread), _in_turn(n)


def two_crescents(n: int, generator: torch.Generator, spread: float = 0.1) -> Labelled:
    r"""Draw points on two half circles that reach into each other.

    Args:
        n: how many.
        generator: draws them.
        spread: standard deviation about the half circle.
    Returns: points (n, 2) in float64 and labels (n,).
    """
    labels = _in_turn(n)
    angles = math.pi * torch.rand(n, generator=generator, dtype=torch.float64)
    x = 0.8 * labels * angles.cos() - 0.4 * labels
    y = 0.8 * labels * angles.sin() - 0.2 * labels
    return _spread(torch.stack([x, y], dim=1), generator, spread), labels


def _in_turn(n: int) -> Tensor:
    return 1.0 - 2.0 * (torch.arange(n) % 2).double()


def _spread(points: Tensor, generator: torch.Generator, spread: float) -> Tensor:
    return points + spread * torch.randn(points.shape, generator=generator, dtype=torch.float64)


PATTERNS: dict[str, Callable[..., Labelled]] = {
    "two circles": two_circles, "four corners": four_corners, "two crescents": two_crescents
}  # fmt: skip
