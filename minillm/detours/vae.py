r"""What makes an autoencoder variational: a distance between bells, a draw with a gradient, and one loss of both."""

from jaxtyping import Float
from torch import Tensor


def kl_gaussian(mu: Float[Tensor, "*B Z"], log_var: Float[Tensor, "*B Z"]) -> Float[Tensor, "*B"]:
    r"""Measure how far a bell N(mu, exp(log_var)) is from N(0, 1), summed over the latent features.

    KL = 1/2 sum_j (mu_j^2 + exp(log_var_j) - 1 - log_var_j). It is 0 for mu = 0, log_var = 0, and larger elsewhere.

    Args:
        mu: means, (..., Z).
        log_var: logarithms of the variances, (..., Z).
    Returns: KL(q || N(0, I)) in nats, (...).
    Source: Kingma and Welling 2013, Auto-Encoding Variational Bayes, appendix B.
    Lesson: 18.
    """
    return 0.5 * (mu.square() + log_var.exp() - 1 - log_var).sum(dim=-1)


def reparameterize(
    mu: Float[Tensor, "*B Z"], log_var: Float[Tensor, "*B Z"], noise: Float[Tensor, "*B Z"]
) -> Float[Tensor, "*B Z"]:
    r"""Turn noise from N(0, 1) into a draw from N(mu, exp(log_var)), so that gradients reach both.

    Args:
        mu: means, (..., Z).
        log_var: logarithms of the variances, (..., Z).
        noise: drawn from N(0, 1), (..., Z).
    Returns: the draw, (..., Z), differentiable in mu and log_var.
    Source: Kingma and Welling 2013, Auto-Encoding Variational Bayes, section 2.4.
    Lesson: 18.
    """
    return mu + (0.5 * log_var).exp() * noise


def negative_elbo(
    x: Float[Tensor, "B P"],
    x_hat: Float[Tensor, "B P"],
    mu: Float[Tensor, "B Z"],
    log_var: Float[Tensor, "B Z"],
    noise_var: float = 1.0,
) -> Float[Tensor, ""]:
    r"""The loss of a VAE whose decoder gives the mean of a Gaussian: reconstruction plus KL, averaged over the batch.

    Both terms are sums, one over all pixels, one over all latent features. A constant of the Gaussian is left out.

    Args:
        x: pictures, (B, P).
        x_hat: what the decoder made of them, (B, P).
        mu: means of their codes, (B, Z).
        log_var: logarithms of the codes' variances, (B, Z).
        noise_var: variance of a pixel about the decoder's mean.
    Returns: a scalar in nats a picture.
    Source: Kingma and Welling 2013, Auto-Encoding Variational Bayes, equation 10.
    Lesson: 18.
    """
    reconstruction = (x - x_hat).square().sum(dim=-1) / (2 * noise_var)
    return (reconstruction + kl_gaussian(mu, log_var)).mean()
