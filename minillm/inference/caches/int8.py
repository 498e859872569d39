r"""A cache in 8 bits: a whole number for each feature, and one scale for each stored vector."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minillm.config import Mla, ModelConfig
from minillm.inference.caches.token_shapes import (
    Shapes,
    require_parts,
    stored_like,
    token_shapes,
)
from minillm.inference.quantization import rows
from minillm.layers.sizes import require_at_least_one


class Int8Cache:
    r"""As `KVCache`, but each vector is stored in 8 bits a feature, plus one float32.

    Not exact: what comes back is within scale / 2 of what went in, for the newest token too, so that cutting a text
    into other chunks changes nothing.

    Args:
        batch_size: B.
        capacity: tokens a sequence, at least 1.
        shapes: from `token_shapes`.
        device: where it lives.
    Raises:
        ValueError: if a size is less than 1.
    Source: Dettmers et al. 2022, LLM.int8(), section 2; for caches, Sheng et al. 2023, FlexGen, section 4.3 (there 4
        bits, in groups).
    Lesson: 10.
    """

    def __init__(
        self, batch_size: int, capacity: int, shapes: Shapes, device: torch.device | str | None = None
    ):
        require_at_least_one(batch_size=batch_size, capacity=capacity)
        self.capacity = capacity
        self.length = 0
        self._shapes = shapes
        sizes = [(batch_size, *shape[:-1], capacity, shape[-1]) for shape in shapes]
        self._steps = tuple(torch.zeros(row, dtype=torch.int8, device=device) for row in sizes)
        self._scales = tuple(torch.zeros((*row[:-1], 1), dtype=torch.float32, device=device) for row in sizes)
        self._positions = torch.full((batch_size, capacity), -1, dtype=torch.int64, device=device)

    def append(
        self, k: Float[Tensor, "B *heads T Fk"], v: Float[Tensor, "B *heads T Fv"], positions: Int[Tensor, "*b T"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""Round the new tokens, write them after the old ones, and return everything so far.

        Args:
            k: keys of the new tokens, (B, Hk, T, Dh), or latents, (B, T, R).
            v: values, or rotated keys, (B, T, Dr).
            positions: (T,) or (B, T), int; -1 = padding.
        Returns: keys and values so far, restored, in k's dtype, and their positions, (B, length).
        Raises:
            ValueError: if the tokens do not fit, or their shape is not the cache's.
        """
        require_parts(self._shapes, len(self._positions), k, v)
        start, end = self.length, self.length + k.shape[-2]
        if end > self.capacity:
            raise ValueError(f"k has {k.shape[-2]} tokens: with the {self.length} cached ones that is more than "
                             f"capacity={self.capacity}; make the cache larger")
        for i, part in enumerate((k, v)):
            self._steps[i][..., start:end, :], self._scales[i][..., start:end, :] = rows.quantize_rows(part)
        self._positions[:, start:end] = positions
        self.length = end
        whole = [rows.restore_rows(steps[..., :end, :], scales[..., :end, :], k.dtype)
                 for steps, scales in zip(self._steps, self._scales, strict=True)]
        return whole[0], whole[1], self._positions[:, :end]


def int8_caches(model: Any, batch_size: int, capacity: int) -> list[Int8Cache]:
    r"""One 8-bit cache a block.

    Args:
        model: any with blocks of attention.
        batch_size: B.
        capacity: tokens a sequence.
    Returns: layer caches, to be passed as `cache`.
    Lesson: 10.
    """
    device = stored_like(model)["device"]
    return [Int8Cache(batch_size, capacity, token_shapes(block.attn), device) for block in model.blocks]


def int8_kv_bytes(config: ModelConfig, kv_len: int, batch_size: int = 1) -> int:
    r"""Bytes of an 8-bit cache, scales included.

    Args:
        config: the model's configuration.
        kv_len: tokens a sequence; `Int8Cache` keeps them all, so windows save nothing.
        batch_size: sequences.
    Returns: bytes of all layers together.
    Lesson: 10.
    """
    if isinstance(config.attention, Mla):
        numbers, vectors = config.attention.kv_rank + config.attention.rope_dim, 2
    else:
        numbers, vectors = 2 * config.n_kv_heads * config.head_dim, 2 * config.n_kv_heads
    return (numbers + vectors * torch.float32.itemsize) * config.n_layers * kv_len * batch_size
