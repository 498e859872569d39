r"""Lesson 18: the bug that is shown is the bug that is run, other right ways pass, the learner's code is what runs."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from minillm.course import mine, shelf
from minillm.course.catalogue import exercise_named
from minillm.course.lessons.lesson_18.two_sums import NEGATIVE_ELBO
from minillm.detours import autoencoder, kernels, moons, vae

USED = ("detours.vae.kl_gaussian", "detours.vae.reparameterize", "detours.vae.negative_elbo",
        "detours.kernels.rbf_kernel")  # fmt: skip


@pytest.fixture(autouse=True)
def empty_shelf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "IN_MEMORY", shelf.Shelf())


def use_detours() -> None:
    r"""Every exercise's function, as the lesson calls it."""
    autoencoder.train_coder(moons.draw_moons(torch.linspace(0, 1, 8), 8), steps=1)
    kernels.rbf_kernel(torch.zeros(2, 2), torch.ones(3, 2), 1.0)


@pytest.mark.parametrize("part", USED)
def test_detours_raise_where_a_part_of_the_learner_raises(part: str) -> None:
    with mine.active():
        use_detours()
    assert {name: calls for name, _, calls in mine.table().rows}[part] >= 1
    source = f"def {part.rpartition('.')[2]}(*args, **kwargs):\n    raise ArithmeticError('mine')\n"
    shelf.IN_MEMORY.keep_attempt(part, source)
    with pytest.raises(ArithmeticError, match="mine"), mine.active():
        use_detours()


def test_the_bug_that_is_shown_is_a_proved_mistake(fresh_seed: int) -> None:
    namespace: dict = {"torch": torch, "kl_gaussian": vae.kl_gaussian}
    exec(re.search(r"```python\n(.*?)```", NEGATIVE_ELBO.task, re.DOTALL)[1], namespace)
    shown = namespace["negative_elbo"]
    assert NEGATIVE_ELBO.judge(shown, fresh_seed).mistake == NEGATIVE_ELBO.mistakes[0].name
    x, x_hat = torch.rand(2, 5, 1)
    codes = torch.randn(2, 5, 2)
    torch.testing.assert_close(shown(x, x_hat, *codes), vae.negative_elbo(x, x_hat, *codes))  # one pixel: no bug to see


def kl_by_logarithms(mu: Tensor, log_var: Tensor) -> Tensor:
    sigma = torch.exp(log_var / 2)
    return ((sigma**2 + mu**2) / 2 - torch.log(sigma) - 0.5).sum(dim=-1)


def moved_noise(mu: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
    return noise * torch.exp(log_var).sqrt() + mu


def elbo_by_hand(x: Tensor, x_hat: Tensor, mu: Tensor, log_var: Tensor, noise_var: float = 1.0) -> Tensor:
    squares = torch.nn.functional.mse_loss(x_hat, x, reduction="sum") / (2 * noise_var * len(x))
    return squares - 0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp()) / len(x)


def expanded_square(x: Tensor, y: Tensor, gamma: float) -> Tensor:
    squares = x.square().sum(1)[:, None] + y.square().sum(1)[None] - 2 * x @ y.T
    return torch.exp(-gamma * squares)


OTHER_WAYS = dict(zip(USED, (kl_by_logarithms, moved_noise, elbo_by_hand, expanded_square), strict=True))


@pytest.mark.parametrize("part, function", list(OTHER_WAYS.items()))
def test_other_right_ways_pass(part: str, function: Callable, fresh_seed: int) -> None:
    for seed in range(fresh_seed, fresh_seed + 3):
        verdict = exercise_named(part).judge(function, seed)
        assert verdict.passed, verdict.message
