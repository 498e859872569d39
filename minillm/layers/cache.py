r"""The contiguous key/value cache of one layer."""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from minillm.layers import paths
from minillm.layers.sizes import require_at_least_one


def cache_append(
    stored: Shaped[Tensor, "*batch capacity F"], new: Shaped[Tensor, "*batch T F"], length: int
) -> Shaped[Tensor, "*batch capacity F"]:
    r"""Write new tokens into the free slots behind the first `length`, in a copy.

        stored   a b c . . .     length 3
        new      d e
        result   a b c d e .

    Args:
        stored: slots for tokens, (..., capacity, F); the first `length` are taken.
        new: the new tokens, (..., T, F), cast to the dtype of stored.
        length: slots that are taken, at least 0.
    Returns: (..., capacity, F), dtype of stored; a new tensor.
    Raises:
        ValueError: if the new tokens do not fit behind the old ones.
    Source: Pope et al. 2022, Efficiently Scaling Transformer Inference, section 2.1.
    Lesson: 10.
    """
    end, capacity = length + new.shape[-2], stored.shape[-2]
    if end > capacity:
        raise ValueError(f"new has {new.shape[-2]} tokens: with length={length} that is more than capacity={capacity}; "
                         "make the cache larger")
    return torch.cat([stored[..., :length, :], new.to(stored.dtype), stored[..., end:, :]], dim=-2)


class KVCache:
    r"""Keys, values and positions of the tokens seen so far, in memory taken once.

    Two writes into a cache of capacity 5 (columns are slots; `.` is free):

        start                 .  .  .  .  .     length 0
        append 3 tokens       k0 k1 k2 .  .     length 3, returns k0 k1 k2
        append 1 token        k0 k1 k2 k3 .     length 4, returns k0 k1 k2 k3
        append 2 tokens       ValueError: 6 > capacity 5; nothing is written

    Keys are stored as they come, that is rotated. Padding is stored too, with position -1, which every mask hides.

    Args:
        batch_size: B.
        n_kv_heads: Hk.
        capacity: tokens a sequence, at least 1.
        head_dim: Dh.
        dtype: of the stored keys and values.
        device: where they live.
    Raises:
        ValueError: if a size is less than 1.
    Source: Pope et al. 2022, Efficiently Scaling Transformer Inference, section 2.1.
    Lesson: 10.
    """

    def __init__(
        self,
        batch_size: int,
        n_kv_heads: int,
        capacity: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ):
        require_at_least_one(batch_size=batch_size, n_kv_heads=n_kv_heads, capacity=capacity, head_dim=head_dim)
        self.capacity = capacity
        self.length = 0
        shape = (batch_size, n_kv_heads, capacity, head_dim)
        self._k = torch.zeros(shape, dtype=dtype, device=device)
        self._v = torch.zeros(shape, dtype=dtype, device=device)
        self._positions = torch.full((batch_size, capacity), -1, dtype=torch.int64, device=device)

    def append(
        self, k: Float[Tensor, "B Hk T Dh"], v: Float[Tensor, "B Hk T Dh"], positions: Int[Tensor, "*b T"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""Write the new tokens after the old ones and return everything so far.

        Args:
            k: keys of the new tokens, (B, Hk, T, Dh), cast to the cache's dtype.
            v: values, the same shape.
            positions: (T,) or (B, T), int; -1 = padding.
        Returns: keys and values so far, (B, Hk, length, Dh) in k's dtype, and their positions, (B, length).
        Raises:
            ValueError: if the tokens do not fit, or their shape is not the cache's.
        """
        end = self.length + k.shape[2]
        if end > self.capacity:
            raise ValueError(
                f"k has {k.shape[2]} tokens: with the {self.length} cached ones that is more than capacity="
                f"{self.capacity}; make the cache larger with new_cache(batch_size, capacity)"
            )
        want = (self._k.shape[0], self._k.shape[1], k.shape[2], self._k.shape[3])
        if k.shape != want or v.shape != want:
            raise ValueError(f"k {tuple(k.shape)}, v {tuple(v.shape)}: this cache takes {want} (B, Hk, T, Dh)")
        self._write(self._k, k)
        self._write(self._v, v)
        self._positions[:, self.length : end] = positions
        self.length = end
        return self._k[:, :, :end].to(k.dtype), self._v[:, :, :end].to(v.dtype), self._positions[:, :end]

    def memory(self) -> tuple[Tensor, Tensor, Tensor]:
        r"""The cache's own tensors, not copies, for code that writes tokens in place and sets `length` by itself.

        Returns: keys and values, (B, Hk, capacity, Dh), and positions, (B, capacity); slots from `length` on are free.
        """
        return self._k, self._v, self._positions

    def _write(self, stored: Tensor, new: Tensor) -> None:
        if paths.use_fused():  # the twin of cache_append: in place, nothing else is copied
            stored[:, :, self.length : self.length + new.shape[2]] = new
        else:
            stored.copy_(cache_append(stored, new, self.length))
