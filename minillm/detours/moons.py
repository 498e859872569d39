r"""Drawn moons: one thing changes from picture to picture, so that it is known which pictures are moons."""

import torch
from jaxtyping import Float
from torch import Tensor

RADIUS = 0.9  # of the disc; a picture reaches from -1 to 1
CATALOGUE = 401  # phases with which a picture is compared


def draw_moons(phases: Float[Tensor, "N"], size: int = 16) -> Float[Tensor, "N P"]:
    r"""Draw the moons of a month, first lit from the right, then from the left.

    The border of the light is half an ellipse that moves evenly across the disc. At an edge a pixel is as bright as the
    part of it that is covered, so that pictures change smoothly with the phase.

    Args:
        phases: 0 is new, 0.25 the first quarter (half of the disc is lit), 0.5 full, 0.75 the last quarter, 1 new.
        size: pixels a side; P = size * size.
    Returns: brightness, 0 (dark) to 1, a row a picture.
    Raises:
        ValueError: if a phase lies outside 0..1 or a picture has less than 4 pixels a side.
    """
    if size < 4:
        raise ValueError(f"size={size}: a moon needs at least 4 pixels a side")
    if phases.numel() and not bool(((phases >= 0) & (phases <= 1)).all()):
        raise ValueError(f"phases reach from {float(phases.min()):g} to {float(phases.max()):g}; keep them in 0..1")
    pixel = 2 / size
    centres = torch.arange(size, dtype=phases.dtype, device=phases.device) * pixel - 1 + pixel / 2
    y, x = centres[:, None], centres[None, :]
    disc = ((RADIUS - (x.square() + y.square()).sqrt()) / pixel + 0.5).clamp(0, 1)
    # Half a pixel wider than the disc on each side: a new moon has no light at all, a full one has it up to the edge.
    half_width = ((RADIUS + pixel / 2) ** 2 - y.square()).clamp(min=0).sqrt() + pixel / 2
    border = (1 - 2 * lit_share(phases))[:, None, None] * half_width
    from_the_left = torch.where(phases > 0.5, -1.0, 1.0).to(phases)[:, None, None]
    lit = ((from_the_left * x - border) / pixel + 0.5).clamp(0, 1)
    return (disc * lit).flatten(1)


def lit_share(phases: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
    r"""Say how much of a moon's width is lit.

    Args:
        phases: see `draw_moons`.
    Returns: 0 at new, 1 at full.
    """
    return 1 - (1 - 2 * phases).abs()


def nearest_moon(pictures: Float[Tensor, "N P"]) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
    r"""Say how far pictures are from being a moon, and which moon is the nearest.

    Args:
        pictures: a row a picture; P is a square number.
    Returns: the squared distance to the nearest of 401 phases, summed over pixels, (N,); and that phase, (N,).
    Raises:
        ValueError: if the pictures are not square.
    """
    size = round(pictures.shape[-1] ** 0.5)
    if size * size != pictures.shape[-1]:
        raise ValueError(f"pictures have {pictures.shape[-1]} pixels, which is no square; draw them with draw_moons")
    phases = torch.linspace(0, 1, CATALOGUE, dtype=pictures.dtype, device=pictures.device)
    exact = "donot_use_mm_for_euclid_dist"  # a product would lose digits where two pictures are nearly the same
    distances, places = torch.cdist(pictures, draw_moons(phases, size), compute_mode=exact).min(dim=-1)
    return distances.square(), phases[places]
