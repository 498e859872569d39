r"""A tiny encoder and decoder, trained as an autoencoder, as a VAE, or as something in between."""

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minillm.detours import vae

Loss = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]
BATCH = 64
LEARNING_RATE = 8e-3


class MoonCoder(nn.Module):
    r"""Pictures to codes and back, a hidden layer each way.

    Args:
        n_pixels: P.
        n_latent: Z, numbers in a code.
        width: of the hidden layers.
        generator: draws the weights; None takes torch's own.
    """

    def __init__(self, n_pixels: int, n_latent: int = 2, width: int = 64, generator: torch.Generator | None = None):
        super().__init__()
        self.n_latent = n_latent
        linear = partial(nn.utils.skip_init, nn.Linear)  # its own weights would come from torch's global generator
        self.encoder = nn.Sequential(linear(n_pixels, width), nn.Tanh(), linear(width, 2 * n_latent))
        self.decoder = nn.Sequential(
            linear(n_latent, width), nn.Tanh(), linear(width, width), nn.Tanh(), linear(width, n_pixels)
        )
        with torch.no_grad():
            for part in self.modules():
                if isinstance(part, nn.Linear):
                    part.weight.normal_(0, part.in_features**-0.5, generator=generator)
                    part.bias.zero_()

    def encode(self, x: Float[Tensor, "B P"]) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]:
        r"""Give each picture its bell.

        Args:
            x: pictures, (B, P).
        Returns: mu and log_var, (B, Z) each; an autoencoder uses mu only.
        """
        mu, log_var = self.encoder(2 * x - 1).chunk(2, dim=-1)
        return mu, log_var

    def decode(self, z: Float[Tensor, "B Z"]) -> Float[Tensor, "B P"]:
        r"""Make pictures of codes.

        Args:
            z: codes, (B, Z).
        Returns: brightness between 0 and 1, (B, P).
        """
        return self.decoder(z).sigmoid()

    def forward(self, x: Float[Tensor, "B P"]) -> Float[Tensor, "B P"]:
        return self.decode(self.encode(x)[0])


def reconstruction_only(x: Tensor, x_hat: Tensor, mu: Tensor, log_var: Tensor, noise_var: float = 1.0) -> Tensor:
    r"""The loss of an autoencoder, on the scale of `vae.negative_elbo`: its first term alone.

    Args:
        x: pictures, (B, P).
        x_hat: what the decoder made of them, (B, P).
        mu: not used.
        log_var: not used.
        noise_var: variance of a pixel about the decoder's mean.
    Returns: a scalar.
    """
    return (x - x_hat).square().sum(dim=-1).mean() / (2 * noise_var)


def train_coder(
    pictures: Float[Tensor, "N P"],
    loss: Loss | None = None,
    noisy: bool = True,
    noise_var: float = 1.0,
    steps: int = 400,
    seed: int = 0,
) -> MoonCoder:
    r"""Train a coder on pictures, with Adam and a learning rate that falls to zero along a cosine.

    Args:
        pictures: (N, P), brightness between 0 and 1.
        loss: of (x, x_hat, mu, log_var, noise_var); None takes `vae.negative_elbo`.
        noisy: draw a code from its bell; False decodes mu itself.
        noise_var: handed to the loss.
        steps: updates, on 64 pictures each.
        seed: of weights, batches and noise.
    Returns: the trained coder.
    """
    generator = torch.Generator().manual_seed(seed)
    coder = MoonCoder(pictures.shape[1], generator=generator)
    optimizer = torch.optim.Adam(coder.parameters(), lr=LEARNING_RATE, fused=True)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        x = pictures[torch.randint(len(pictures), (BATCH,), generator=generator)]
        mu, log_var = coder.encode(x)
        noise = torch.randn(mu.shape, generator=generator)
        z = vae.reparameterize(mu, log_var, noise) if noisy else mu
        value = (loss or vae.negative_elbo)(x, coder.decode(z), mu, log_var, noise_var)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return coder.requires_grad_(False)
