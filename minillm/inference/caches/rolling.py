r"""The cache of a layer with a window: a ring that forgets what no later query can see."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minillm.inference.caches.token_shapes import (
    Shapes,
    require_parts,
    stored_like,
    token_shapes,
)
from minillm.layers.cache import KVCache
from minillm.layers.sizes import require_at_least_one


class RollingCache:
    r"""The last `window` tokens of each row, in memory that never grows.

    The token at position p lies in slot p % window. A window of 3 (columns are slots):

        append 2 tokens       k0 k1 .
        append 2 tokens       k3 k1 k2     returns k0 k1 and the two new ones: the first of them still sees k0 and k1
        append 1 token        k3 k4 k2     returns k3 k4 k2

    The order of keys does not matter, because masks look at positions. Padding is not stored.

    Args:
        batch_size: B.
        window: tokens that a query sees, itself included: the window of the layer's mask.
        shapes: from `token_shapes`.
        dtype: of what is stored.
        device: where it lives.
    Raises:
        ValueError: if a size is less than 1.
    Source: Jiang et al. 2023, Mistral 7B, section 2, "Rolling Buffer Cache".
    Lesson: 10.
    """

    def __init__(
        self,
        batch_size: int,
        window: int,
        shapes: Shapes,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ):
        require_at_least_one(batch_size=batch_size, window=window)
        self.capacity = window
        self.length = 0
        self._shapes = shapes
        self._parts = tuple(
            torch.zeros((batch_size, window, *shape), dtype=dtype, device=device) for shape in shapes)
        self._positions = torch.full((batch_size, window), -1, dtype=torch.int64, device=device)

    def append(
        self, k: Float[Tensor, "B Hk T Dh"], v: Float[Tensor, "B Hk T Dh"], positions: Int[Tensor, "*b T"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""Take in the new tokens and return all that any of them may see.

        Args:
            k: keys of the new tokens, (B, Hk, T, Dh), cast to the cache's dtype.
            v: values.
            positions: (T,) or (B, T), int, growing along each row; -1 = padding.
        Returns: keys and values, (B, Hk, Tk, Dh) in k's dtype, and their positions, (B, Tk); Tk is `window` for one new
            token, `window` + T for more.
        Raises:
            ValueError: if the shapes are not the cache's.
        """
        require_parts(self._shapes, len(self._positions), k, v)
        positions = positions.expand(len(k), -1)
        held = (*(part.movedim(1, -2) for part in self._parts), self._positions)
        if k.shape[-2] == 1:  # what it overwrites is out of its own sight, and there is no other query
            self._write((k, v), positions)
            return held[0].to(k.dtype), held[1].to(v.dtype), held[2]
        # As the cache would give them back: so that a chunk and single tokens see the same numbers in any dtype.
        new = tuple(part.to(held[0].dtype) for part in (k, v))
        both = [torch.cat(pair, dim=-2).to(k.dtype) for pair in zip(held, new, strict=False)]
        kv_positions = torch.cat([self._positions, positions], dim=1)
        self._write((k, v), positions)
        return both[0], both[1], kv_positions

    def _write(self, new: tuple[Tensor, Tensor], positions: Tensor) -> None:
        newest = positions.amax(dim=1, keepdim=True)
        rows, columns = ((positions >= 0) & (positions > newest - self.capacity)).nonzero(as_tuple=True)
        slots = positions[rows, columns] % self.capacity
        for stored, part in zip(self._parts, new, strict=True):
            stored[rows, slots] = part.movedim(-2, 1)[rows, columns].to(stored.dtype)
        self._positions[rows, slots] = positions[rows, columns]
        self.length += positions.shape[1]


def rolling_caches(
    model: Any, batch_size: int, capacity: int | None = None, dtype: torch.dtype | None = None
) -> list[RollingCache | KVCache]:
    r"""One cache a block, which holds no more tokens than the block's window.

    Args:
        model: whose attention has a window in at least one block.
        batch_size: B.
        capacity: tokens a sequence, for blocks without a window, and those whose window is longer than the text; None =
            no limit, if all blocks have windows.
        dtype: of what is stored; None means the model's own.
    Returns: layer caches, to be passed as `cache`.
    Raises:
        ValueError: if no block has a window, or one has none and there is no capacity.
    Source: Jiang et al. 2023, Mistral 7B, section 2.
    Lesson: 10.
    """
    options = model.config.attention
    windows = [getattr(options, "window_of", lambda layer: None)(layer) for layer in range(model.config.n_layers)]
    if all(window is None for window in windows):
        raise ValueError(f"model: its attention, {options!r}, has no window, so every token may still be needed; "
                         "use model.new_cache")
    if capacity is None and None in windows:
        raise ValueError(f"capacity=None: blocks without a window ({windows}) need one, in tokens")
    caches: list[RollingCache | KVCache] = []
    for block, window in zip(model.blocks, windows, strict=True):
        if window is None or (capacity is not None and capacity <= window):
            caches.append(block.attn.new_cache(batch_size, capacity, dtype))
        else:
            caches.append(RollingCache(batch_size, window, token_shapes(block.attn), **stored_like(model, dtype)))
    return caches
