r"""Find the bug: a mean where a sum belongs."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Combine = Callable[[Tensor, Tensor, float], Tensor]


def bound_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    yield (torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]]), torch.tensor([[0.7]]), torch.tensor([[-0.5]])), {}
    for noise_var in (0.5, 0.1, 2.0):
        b, p, z = draw.sizes(3, 2, 8)
        x, x_hat = draw.normal(b, p), draw.normal(b, p)
        yield (x, x_hat, draw.normal(b, z), draw.normal(b, z) - 0.5), {"noise_var": noise_var}
    b, p, z = draw.size(3, 5), 256, 2
    x, x_hat, mu, log_var = (draw.normal(b, n, dtype=torch.float64) for n in (p, p, z, z))
    yield (x, x_hat, mu, log_var, draw.size(2, 9) / 8), {}


def by_distributions(x: Tensor, x_hat: Tensor, mu: Tensor, log_var: Tensor, noise_var: float = 1.0) -> Tensor:
    r"""Logarithms of densities by torch: of the picture, against the best that could be said of it."""
    width = torch.tensor(noise_var, dtype=torch.float64).sqrt()
    seen, told = (Independent(Normal(part.double(), width), 1) for part in (x, x_hat))
    lost = seen.log_prob(x.double()) - told.log_prob(x.double())
    bell = Independent(Normal(mu.double(), (log_var.double() / 2).exp()), 1)
    standard = Independent(Normal(torch.zeros_like(mu).double(), 1.0), 1)
    return (lost + kl_divergence(bell, standard)).mean().to(x.dtype)


def combined(combine: Combine, of_pixels: Callable[[Tensor], Tensor] = torch.square) -> Callable[..., Tensor]:
    r"""A loss of the pixels' errors (B, P) and the features' divergences (B, Z)."""

    def function(x: Tensor, x_hat: Tensor, mu: Tensor, log_var: Tensor, noise_var: float = 1.0) -> Tensor:
        return combine(of_pixels(x - x_hat), (mu**2 + log_var.exp() - 1 - log_var) / 2, noise_var)

    return function


def in_one_sum(pixels: Tensor, features: Tensor, noise_var: float) -> Tensor:
    return (pixels.sum() / (2 * noise_var) + features.sum()) / len(pixels)


NEGATIVE_ELBO = Exercise(
    id="detours.vae.negative_elbo",
    lesson="18",
    title="Find the bug",
    task="Somebody wrote the loss of a VAE, with your `kl_gaussian`:\n\n"
    "```python\n"
    "def negative_elbo(x, x_hat, mu, log_var, noise_var=1.0):\n"
    "    off = torch.nn.functional.mse_loss(x_hat, x) / (2 * noise_var)\n"
    "    return off + kl_gaussian(mu, log_var).mean()\n"
    "```\n\n"
    "The cell above has shown what comes of it: one moon for all codes. Write down what is averaged in each of the two "
    "terms, and over how many numbers; then mend the function. What is wanted is the mean over the *batch* of what a "
    "whole picture costs,\n\n"
    "$$\\frac{1}{2 \\cdot \\text{noise\\_var}} \\sum_{\\text{pixels}} (x - \\hat x)^2 + \\mathrm{KL}$$",
    difficulty=2,
    minutes=10,
    points=3,
    seed=183,
    hints=(
        "`mse_loss` divides by the number of elements of (B, P). By what is the KL divided?",
        "The logarithm of the probability of a picture is a sum: each pixel adds its own. A picture of 256 pixels has "
        "256 terms, whatever the batch.",
        "Get a number for each picture, (B,), for both terms; add them; average once.",
    ),
    cases=bound_cases,
    oracle=by_distributions,
    other_style=combined(in_one_sum),
    tolerance=Tolerance(2e-5, 2e-6, "sums of some hundreds of squares in another order"),
    mistakes=(
        Mistake(
            "mean over pixels",
            combined(lambda pixels, features, v: pixels.mean() / (2 * v) + features.sum(-1).mean()),
            "The bug is still there: the squares are averaged over the pixels, while the KL is a sum. With 256 pixels "
            "the KL weighs 256 times too much, and the cheapest code is one that says nothing.",
        ),
        Mistake(
            "two means",
            combined(lambda pixels, features, v: pixels.mean() / (2 * v) + features.mean()),
            "Now both are averaged, the one over 256 pixels and the other over 2 features: the KL still weighs 128 "
            "times too much. Both are sums; only the batch is averaged.",
        ),
        Mistake(
            "KL averaged",
            combined(lambda pixels, features, v: pixels.sum(-1).mean() / (2 * v) + features.mean()),
            "The reconstruction is right, but the KL is averaged over the latent features. It is a sum too.",
        ),
        Mistake(
            "batch summed",
            combined(lambda pixels, features, v: pixels.sum() / (2 * v) + features.sum()),
            "You sum over the batch as well: the loss, and with it each step of training, grows with the batch size. "
            "Average over the pictures.",
        ),
        Mistake(
            "only one of them summed over the batch",
            combined(lambda pixels, features, v: pixels.sum(-1).mean() / (2 * v) + features.sum()),
            "The KL is summed over the batch and the reconstruction averaged: how much the KL weighs would hang on the "
            "batch size.",
        ),
        Mistake(
            "KL subtracted",
            combined(lambda pixels, features, v: (pixels.sum(-1) / (2 * v) - features.sum(-1)).mean()),
            "You subtract the KL. In the ELBO it is subtracted; this is the ELBO with its sign turned, so that it can "
            "be minimized, and both terms are costs.",
        ),
        Mistake(
            "no KL",
            combined(lambda pixels, features, v: (pixels.sum(-1) / (2 * v)).mean() + 0 * features.sum()),
            "There is no KL in it: that is the loss of an autoencoder.",
        ),
        Mistake(
            "no two",
            combined(lambda pixels, features, v: (pixels.sum(-1) / v + features.sum(-1)).mean()),
            "The squares are to be divided by 2 * noise_var: the 2 comes from the exponent of the Gaussian.",
        ),
        Mistake(
            "variance squared",
            combined(lambda pixels, features, v: (pixels.sum(-1) / (2 * v**2) + features.sum(-1)).mean()),
            "You square `noise_var`. It is a variance already.",
        ),
        Mistake(
            "variance unused",
            combined(lambda pixels, features, v: (pixels.sum(-1) / 2 + features.sum(-1)).mean()),
            "`noise_var` is not used. It is what says how much a wrong pixel weighs against a nat of KL.",
        ),
        Mistake(
            "not squared",
            combined(lambda pixels, features, v: (pixels.sum(-1) / (2 * v) + features.sum(-1)).mean(), torch.abs),
            "You take absolute differences. A Gaussian pixel costs the square of its error.",
        ),
        Mistake(
            "not averaged",
            combined(lambda pixels, features, v: pixels.sum(-1) / (2 * v) + features.sum(-1)),
            "You return a number for each picture. A loss is one number: average over the batch.",
        ),
    ),
)
