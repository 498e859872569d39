r"""The distance of a bell from the standard one."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw


def bell_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    yield (torch.tensor([[0.7]]), torch.tensor([[-0.5]])), {}
    for dtype in (torch.float32, torch.float64):
        b, z = draw.sizes(2, 2, 6)
        yield (draw.normal(b, z, dtype=dtype, scale=1.5), draw.normal(b, z, dtype=dtype)), {}
    b, t, z = draw.sizes(3, 2, 5)
    yield (draw.normal(b, t, z), draw.normal(b, t, z) - 1), {}
    yield (draw.normal(draw.size(2, 5), scale=2.0),) * 2, {}  # one bell, no batch
    yield (torch.zeros(3, 4), torch.zeros(3, 4)), {}


def by_torch(mu: Tensor, log_var: Tensor) -> Tensor:
    r"""torch's own, for each latent feature."""
    bell = Normal(mu.double(), (log_var.double() / 2).exp())
    return kl_divergence(bell, Normal(0.0, 1.0)).sum(-1).to(mu.dtype)


def summed_with(term: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    r"""Another term (mu, log_var) for each latent feature."""
    return lambda mu, log_var: term(mu, log_var).sum(-1)


def right_term(mu: Tensor, log_var: Tensor) -> Tensor:
    return (mu**2 + torch.exp(log_var) - 1 - log_var) / 2


KL_GAUSSIAN = Exercise(
    id="detours.vae.kl_gaussian",
    lesson="18",
    title="The distance from the standard bell",
    task="For each picture the encoder gives Z means `mu` and Z logarithms of variances `log_var`, both (B, Z), or "
    "with other axes in front, or none. Return the KL divergence of that bell from N(0, I), summed over the latent "
    "features, so that the last axis goes:\n\n"
    "$$\\mathrm{KL} = \\tfrac{1}{2} \\sum_j \\big( \\mu_j^2 + \\sigma_j^2 - 1 - \\log \\sigma_j^2 \\big)$$\n\n"
    "By hand: $\\mu = 0.7$ and $\\log \\sigma^2 = -0.5$ give (0.49 + 0.6065 − 1 + 0.5) / 2 = 0.2983. And "
    "$\\mu = 0, \\sigma = 1$ gives 0.",
    difficulty=1,
    minutes=8,
    points=3,
    seed=181,
    hints=(
        "You are given $\\log \\sigma^2$. What do you have to do to it to get $\\sigma^2$? And what for "
        "$\\log \\sigma^2$?",
        "Write the bracket for all features at once: it has the shape of `mu`. Try it on 0.7 and −0.5.",
        "Only the last axis is summed. `dim=-1` finds it, however many stand in front.",
    ),
    cases=bell_cases,
    oracle=by_torch,
    other_style=summed_with(right_term),
    tolerance=Tolerance(2e-5, 2e-6, "a difference of numbers near 1 in float32"),
    mistakes=(
        Mistake(
            "no half",
            summed_with(lambda mu, log_var: 2 * right_term(mu, log_var)),
            "The factor 1/2 in front of the sum is missing: your divergence is twice the right one. The half comes "
            "from the exponent of the Gaussian.",
        ),
        Mistake(
            "the paper's sign",
            summed_with(lambda mu, log_var: -right_term(mu, log_var)),
            "You return minus the divergence. The paper writes −KL, because it maximizes; here it is part of a loss "
            "and must be positive.",
        ),
        Mistake(
            "logarithm added",
            summed_with(lambda mu, log_var: (mu**2 + log_var.exp() - 1 + log_var) / 2),
            "log sigma^2 must be subtracted. Added, a bell could become ever narrower and earn more and more for it; "
            "subtracted, it pays.",
        ),
        Mistake(
            "no one",
            summed_with(lambda mu, log_var: (mu**2 + log_var.exp() - log_var) / 2),
            "The −1 is missing. With it the divergence of N(0, 1) from itself is 0; yours is 1/2 for each latent "
            "feature.",
        ),
        Mistake(
            "variance for its logarithm",
            summed_with(lambda mu, log_var: (mu**2 + log_var - 1 - log_var.log()) / 2),
            "You take `log_var` for the variance itself: negative ones become NaN under the logarithm. The encoder may "
            "say any number, which is why it says the logarithm.",
        ),
        Mistake(
            "deviation for variance",
            summed_with(lambda mu, log_var: (mu**2 + (2 * log_var).exp() - 1 - 2 * log_var) / 2),
            "You read `log_var` as log sigma. It is log sigma^2: exp(log_var) is the variance already, and must not be "
            "squared.",
        ),
        Mistake(
            "half of the logarithm",
            summed_with(lambda mu, log_var: (mu**2 + (log_var / 2).exp() - 1 - log_var) / 2),
            "exp(log_var / 2) is sigma. In the formula stands sigma^2, and that is exp(log_var).",
        ),
        Mistake(
            "the other way round",
            summed_with(lambda mu, log_var: ((mu**2 + 1) * (-log_var).exp() - 1 + log_var) / 2),
            "You have the divergence of N(0, I) from the bell. A divergence has a direction: the bell comes first, "
            "since it is the bell that draws the codes.",
        ),
        Mistake(
            "mean not squared",
            summed_with(lambda mu, log_var: (mu.abs() + log_var.exp() - 1 - log_var) / 2),
            "mu enters squared: a bell twice as far from 0 costs four times as much.",
        ),
        Mistake(
            "mean over the features",
            lambda mu, log_var: right_term(mu, log_var).mean(-1),
            "You average over the latent features. Divergences of independent numbers add up; averaged, they would "
            "weigh less against the reconstruction the more of them there are.",
        ),
        Mistake(
            "batch gone",
            lambda mu, log_var: right_term(mu, log_var).sum(),
            "You sum over everything. Each picture has its own divergence: only the last axis goes.",
        ),
        Mistake(
            "not summed",
            right_term,
            "You have the terms of all features and do not add them up. The last axis must go.",
        ),
    ),
)
