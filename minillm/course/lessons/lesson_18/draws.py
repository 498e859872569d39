r"""A draw with a gradient."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw


def draw_cases_of_codes(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    yield (torch.ones(1, 1, requires_grad=True), torch.ones(1, 1, requires_grad=True), torch.tensor([[2.0]])), {}
    for dtype in (torch.float32, torch.float64):
        shape = draw.sizes(2, 2, 6)
        mu, log_var, noise = (draw.normal(*shape, dtype=dtype) for _ in range(3))
        yield (mu.requires_grad_(), (log_var - 0.5).requires_grad_(), noise), {}
    mu, log_var, noise = (draw.normal(2, 3, 4) for _ in range(3))
    yield (mu.requires_grad_(), (2 * log_var).requires_grad_(), noise), {}


def draw_and_gradients(function: Callable[..., Tensor], mu: Tensor, log_var: Tensor, noise: Tensor) -> Any:
    r"""The codes, and how they follow when mu or log_var is moved."""
    z = function(mu, log_var, noise)
    if not isinstance(z, Tensor) or z.shape != mu.shape:
        return z
    pushes = torch.autograd.grad(_pulled(z), (mu, log_var), allow_unused=True) if z.requires_grad else (None, None)
    filled = [torch.zeros_like(mu) if push is None else push for push in pushes]
    return {"z": z.detach(), "gradient of mu": filled[0], "gradient of log_var": filled[1]}


def _pulled(z: Tensor) -> Tensor:
    r"""A scalar in which each number of z has another weight."""
    return (z * torch.arange(1, z.numel() + 1, dtype=z.dtype).view_as(z)).sum()


def code_by_code(mu: Tensor, log_var: Tensor, noise: Tensor) -> dict[str, Tensor]:
    r"""Python's numbers, and the gradients by the rules for exp."""
    codes, of_mu, of_log_var = [], [], []
    numbers = zip(mu.flatten().tolist(), log_var.flatten().tolist(), noise.flatten().tolist(), strict=True)
    for weight, (mean, log, eps) in enumerate(numbers, 1):
        sigma = math.sqrt(math.exp(log))
        codes.append(mean + sigma * eps)
        of_mu.append(float(weight))
        of_log_var.append(weight * eps * sigma / 2)
    shaped = [torch.tensor(part, dtype=mu.dtype).view(mu.shape) for part in (codes, of_mu, of_log_var)]
    return dict(zip(("z", "gradient of mu", "gradient of log_var"), shaped, strict=True))


def spread_by(sigma: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    r"""The draw with another width of log_var."""
    return lambda mu, log_var, noise: mu + sigma(log_var) * noise


def right_draw(mu: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
    return torch.addcmul(mu, torch.sqrt(torch.exp(log_var)), noise)


def drawn_by_torch(mu: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
    return torch.normal(mu, (log_var / 2).exp()).detach()


REPARAMETERIZE = Exercise(
    id="detours.vae.reparameterize",
    lesson="18",
    title="A draw with a gradient",
    task="Turn `noise`, drawn from N(0, 1), into codes from the bell with means `mu` and variances exp(`log_var`); all "
    "three have one shape. A mean of 1, a variance of e (so `log_var` is 1) and a noise of 2 give "
    "1 + 2 · 1.6487 = 4.2974.\n\nThe check also looks at the gradients: move `mu` a little, and the code must move "
    "with it; move `log_var`, and the code must go further from or nearer to `mu`.",
    difficulty=1,
    minutes=6,
    points=3,
    seed=182,
    hints=(
        "N(0, 1) has width 1 and stands at 0. Make it wide first, then move it.",
        "A draw is as wide as the standard deviation, not as the variance. You are given the logarithm of the "
        "variance: what is the logarithm of its root?",
        "If the numbers are right and the gradients are 0, something in your function takes them out of the graph: "
        "`detach`, `item`, `torch.no_grad`, `torch.normal`.",
    ),
    cases=draw_cases_of_codes,
    oracle=code_by_code,
    probe=draw_and_gradients,
    other_style=right_draw,
    tolerance=Tolerance(2e-5, 2e-6, "an exponential and a sum in float32"),
    mistakes=(
        Mistake(
            "as wide as the variance",
            spread_by(torch.exp),
            "exp(log_var) is the variance; a draw is as wide as its root, the standard deviation. Halve the logarithm "
            "before you take the exponential. (This one runs and trains, with codes that are too wide or too narrow.)",
        ),
        Mistake(
            "the logarithm as width",
            spread_by(lambda log_var: log_var),
            "You multiply the noise by `log_var` itself. A bell of variance 1 has log_var 0: yours would have no width."
            "",
        ),
        Mistake(
            "root of the logarithm",
            spread_by(lambda log_var: log_var.sqrt()),
            "The root of a logarithm is NaN wherever the variance is below 1. Take the exponential first, then the "
            "root.",
        ),
        Mistake(
            "one over sigma",
            spread_by(lambda log_var: (-log_var / 2).exp()),
            "Your codes are wide where they should be narrow: the sign in the exponent is turned round.",
        ),
        Mistake(
            "noise not scaled",
            lambda mu, log_var, noise: mu + noise,
            "Your noise is as wide for every picture. The encoder could say how sure it is, and nobody would listen: "
            "log_var gets no gradient.",
        ),
        Mistake(
            "mean scaled too",
            lambda mu, log_var, noise: (mu + noise) * (log_var / 2).exp(),
            "You move first and widen afterwards, so that the mean is widened too. Widen the noise, then add mu.",
        ),
        Mistake(
            "mean forgotten",
            lambda mu, log_var, noise: (log_var / 2).exp() * noise,
            "Your bell stands at 0 for every picture: mu is not added, and the code does not know which picture it is "
            "of.",
        ),
        Mistake(
            "always the mean",
            lambda mu, log_var, noise: mu + 0 * log_var * noise,
            "You return mu, and the noise is not used. That is an autoencoder.",
        ),
        Mistake(
            "cut off",
            lambda mu, log_var, noise: right_draw(mu, log_var, noise).detach(),
            "The numbers are right, but no gradient comes back to mu and log_var: the encoder would never learn. Do "
            "not detach; compute the code *from* mu and log_var.",
        ),
        Mistake(
            "width cut off",
            lambda mu, log_var, noise: right_draw(mu, log_var.detach(), noise),
            "mu gets its gradient, log_var gets none: the width would never be trained. Take the exponential inside "
            "the graph.",
        ),
        Mistake(
            "drawn by torch",
            drawn_by_torch,
            "You let torch draw from the bell. A drawn number has no memory of where it came from: no gradient comes "
            "back to mu and log_var. The chance is to come in from outside, as `noise`.",
        ),
        Mistake(
            "noise of its own",
            lambda mu, log_var, noise: right_draw(mu, log_var, torch.randn_like(mu)),
            "You draw new noise in place of `noise`. As an input it can be seeded, repeated, and checked.",
        ),
    ),
)
