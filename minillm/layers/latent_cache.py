r"""The cache of one layer of multi-head latent attention: one short vector a token in place of all keys and values."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minillm.layers.sizes import require_at_least_one


class LatentCache:
    r"""Latents, shared rotated keys and positions of the tokens seen so far, in memory taken once.

    A token costs kv_rank + rope_dim numbers here, however many heads there are; `KVCache` keeps 2 * Hk * Dh.

    Args:
        batch_size: B.
        capacity: tokens a sequence, at least 1.
        kv_rank: R, width of a latent.
        rope_dim: Dr, width of the rotated key that all heads share.
        dtype: of what is stored.
        device: where it lives.
    Raises:
        ValueError: if a size is less than 1.
    Source: DeepSeek-AI 2024, DeepSeek-V2, section 2.1.3 and table 1.
    Lesson: 03.
    """

    def __init__(
        self,
        batch_size: int,
        capacity: int,
        kv_rank: int,
        rope_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ):
        require_at_least_one(batch_size=batch_size, capacity=capacity, kv_rank=kv_rank, rope_dim=rope_dim)
        self.capacity = capacity
        self.length = 0
        self._latent = torch.zeros((batch_size, capacity, kv_rank), dtype=dtype, device=device)
        self._k_rope = torch.zeros((batch_size, capacity, rope_dim), dtype=dtype, device=device)
        self._positions = torch.full((batch_size, capacity), -1, dtype=torch.int64, device=device)

    @property
    def floats_per_token(self) -> int:
        r"""Numbers kept for one token of one sequence, counted on the stored tensors."""
        return (self._latent[0].numel() + self._k_rope[0].numel()) // self.capacity

    def append(
        self, latent: Float[Tensor, "B T R"], k_rope: Float[Tensor, "B T Dr"], positions: Int[Tensor, "*b T"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""Write the new tokens after the old ones and return everything so far.

        Args:
            latent: of the new tokens, normalized, (B, T, R), cast to the cache's dtype.
            k_rope: their rotated keys, (B, T, Dr).
            positions: (T,) or (B, T), int; -1 = padding.
        Returns: latents (B, length, R) and keys (B, length, Dr) so far, in latent's dtype, and positions (B, length).
        Raises:
            ValueError: if the tokens do not fit, or their shape is not the cache's.
        """
        end = self.length + latent.shape[1]
        if end > self.capacity:
            raise ValueError(
                f"latent has {latent.shape[1]} tokens: with the {self.length} cached ones that is more than capacity="
                f"{self.capacity}; make the cache larger with new_cache(batch_size, capacity)"
            )
        for name, part, stored in (("latent", latent, self._latent), ("k_rope", k_rope, self._k_rope)):
            want = (stored.shape[0], latent.shape[1], stored.shape[2])
            if part.shape != want:
                raise ValueError(f"{name} {tuple(part.shape)}: this cache takes {want}")
        new = slice(self.length, end)
        self._latent[:, new], self._k_rope[:, new], self._positions[:, new] = latent, k_rope, positions
        self.length = end
        dtype = latent.dtype
        return self._latent[:, :end].to(dtype), self._k_rope[:, :end].to(dtype), self._positions[:, :end]
