r"""KL, draw and bound against torch's distributions, an integral, and a case that can be solved by hand."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from minillm.detours import autoencoder, moons, vae


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_kl_is_torch_s_and_the_integral_s(fresh_seed: int):
    mu, log_var = drawn(fresh_seed, 3, 5, 2), drawn(fresh_seed + 1, 3, 5, 2)
    bells = Normal(mu, (log_var / 2).exp())
    expected = kl_divergence(bells, Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(vae.kl_gaussian(mu, log_var), expected)
    z = torch.linspace(-40, 40, 80_001, dtype=torch.float64)
    one = Normal(mu[0, 0, 0], (log_var[0, 0, 0] / 2).exp())
    ratio = one.log_prob(z) - Normal(0.0, 1.0).log_prob(z)
    integral = torch.trapezoid(one.log_prob(z).exp() * ratio, z)
    torch.testing.assert_close(vae.kl_gaussian(mu[0, 0, :1], log_var[0, 0, :1]), integral, rtol=1e-6, atol=1e-8)


def test_kl_is_smallest_for_the_standard_bell(fresh_seed: int):
    assert float(vae.kl_gaussian(torch.zeros(4), torch.zeros(4))) == 0.0
    assert bool((vae.kl_gaussian(drawn(fresh_seed, 200, 3), drawn(fresh_seed + 1, 200, 3)) > 0).all())


def test_draw_is_the_inverse_of_standardizing(fresh_seed: int):
    mu, log_var, noise = (drawn(fresh_seed + i, 4, 3) for i in range(3))
    z = vae.reparameterize(mu, log_var, noise)
    torch.testing.assert_close((z - mu) / log_var.exp().sqrt(), noise)
    assert torch.autograd.gradcheck(vae.reparameterize, (mu.requires_grad_(), log_var.requires_grad_(), noise))


def test_bound_is_tight_at_the_true_posterior_and_nowhere_else(fresh_seed: int):
    r"""z ~ N(0, I), x ~ N(z, v): p(x) and the posterior are known."""
    x, v = drawn(fresh_seed, 1, 3), 0.5
    evidence = Normal(0.0, math.sqrt(1 + v)).log_prob(x).sum()
    constant = 0.5 * x.shape[1] * math.log(2 * math.pi * v)

    def bound(mu: torch.Tensor, log_var: torch.Tensor) -> torch.Tensor:
        r"""The expectation over z in closed form: the mean decodes to itself, the variance adds to the error."""
        spread = log_var.exp().sum() / (2 * v)
        return -vae.negative_elbo(x, mu, mu, log_var, v) - spread - constant

    posterior = x / (1 + v), torch.full_like(x, math.log(v / (1 + v)))
    torch.testing.assert_close(bound(*posterior), evidence)
    for seed in range(fresh_seed, fresh_seed + 20):
        away = posterior[0] + 0.3 * drawn(seed, 1, 3), posterior[1] + 0.3 * drawn(seed + 1, 1, 3)
        assert float(bound(*away)) < float(evidence)


def test_loss_of_a_batch_is_the_mean_of_its_pictures(fresh_seed: int):
    x, x_hat, mu, log_var = (drawn(fresh_seed + i, 4, n) for i, n in enumerate((9, 9, 2, 2)))
    alone = [vae.negative_elbo(x[i : i + 1], x_hat[i : i + 1], mu[i : i + 1], log_var[i : i + 1]) for i in range(4)]
    assert float(vae.negative_elbo(x, x_hat, mu, log_var)) == pytest.approx(float(sum(alone)) / 4)


def test_coder_is_seeded_and_takes_the_loss_it_is_given():
    pictures = moons.draw_moons(torch.linspace(0, 1, 64), 8)
    state = torch.get_rng_state()
    one, same, other = (autoencoder.train_coder(pictures, steps=20, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state), "the global generator is not touched"
    assert torch.equal(one(pictures), same(pictures)) and not torch.equal(one(pictures), other(pictures))
    losses = []

    def watched(*parts: object) -> torch.Tensor:
        losses.append(autoencoder.reconstruction_only(*parts))
        return losses[-1]

    trained = autoencoder.train_coder(pictures, watched, noisy=False, steps=60)
    assert len(losses) == 60 and float(losses[-1].detach()) < 0.5 * float(losses[0].detach())
    assert trained(pictures).shape == pictures.shape and not any(p.requires_grad for p in trained.parameters())


def test_reconstruction_only_is_the_bound_without_its_kl(fresh_seed: int):
    x, x_hat, mu, log_var = (drawn(fresh_seed + i, 4, n) for i, n in enumerate((9, 9, 2, 2)))
    whole = vae.negative_elbo(x, x_hat, mu, log_var, 0.3)
    part = autoencoder.reconstruction_only(x, x_hat, mu, log_var, 0.3)
    torch.testing.assert_close(whole - part, vae.kl_gaussian(mu, log_var).mean())
