r"""A cache of constant size for text without end: attention sinks and a window, placed anew at each step."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minillm.config import Alibi, Mla, NoPosition, Rope, Shaw, T5Bias, TransformerXL
from minillm.inference.caches import sinks
from minillm.inference.caches.token_shapes import (
    Shapes,
    require_parts,
    stored_like,
    token_shapes,
)
from minillm.layers import rope
from minillm.layers.sizes import require_at_least_one
from minillm.model.rotation import model_angles

RELATIVE = (Rope, Alibi, T5Bias, Shaw, TransformerXL, NoPosition)  # positions that enter by distances alone


class SinkCache:
    r"""The first n_sinks tokens and the most recent `window` ones, as if they had always stood side by side.

    Two sinks, a window of 3; the token that comes in is one of the window:

        text                  a  b  c  d  e  f  g
        kept at g             a  b        e  f  g
        positions they get    0  1        2  3  4     and g's query stands at 4 too

    The distance between a query and the sinks therefore never grows beyond what the model knows. Keys come in rotated;
    they are turned back and stored unrotated, and turned to their new places each time they are read.

    Exact only as long as nothing has been dropped. A chunk for which there is no room drops tokens before its first
    query reads: feed one token at a time if each is to see a whole window. Pass no padding_mask.

    Args:
        batch_size: B.
        n_sinks: tokens at the beginning that stay, at least 0.
        window: recent tokens, the newest included, at least 1.
        shapes: from `token_shapes`.
        turned: which of the two parts is rotated: 0 for keys, 1 for latent attention; None = neither.
        angles_of: positions -> RoPE's angles; None where turned is None.
        dtype: of what is stored.
        device: where it lives.
    Attributes: `length`, the position at which the next token stands; `seen`, the tokens that have come by.
    Raises:
        ValueError: if a size is out of range.
    Source: Xiao et al. 2023, Efficient Streaming Language Models with Attention Sinks, section 3.2.
    Lesson: 10.
    """

    def __init__(
        self,
        batch_size: int,
        n_sinks: int,
        window: int,
        shapes: Shapes,
        turned: int | None = None,
        angles_of: Callable[[Tensor], Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ):
        require_at_least_one(batch_size=batch_size, window=window)
        if n_sinks < 0:
            raise ValueError(f"n_sinks={n_sinks}: use at least 0")
        self.capacity = n_sinks + window
        self.seen = 0
        self._n_sinks, self._window, self._shapes = n_sinks, window, shapes
        self._turned, self._angles_of = turned, angles_of
        self._parts = tuple(
            torch.zeros((batch_size, *shape[:-1], 0, shape[-1]), dtype=dtype, device=device) for shape in shapes)

    @property
    def length(self) -> int:
        r"""The position of the next token: it stays below `capacity`, however long the text."""
        return min(self.seen, self.capacity - 1)

    def append(
        self, k: Float[Tensor, "B *heads T Fk"], v: Float[Tensor, "B *heads T Fv"], positions: Int[Tensor, "*b T"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""Drop what the new tokens leave no room for, and return the rest, placed right before them.

        Args:
            k: keys of the new tokens, (B, Hk, T, Dh), or latents, (B, T, R).
            v: values, or rotated keys, (B, T, Dr).
            positions: (T,) or (B, T), int, one after the other.
        Returns: keys and values, (B, Hk, Tk, Dh) in k's dtype, Tk at most `capacity`, and their positions, (B, Tk).
        Raises:
            ValueError: if there is padding, the chunk is too long, or the shapes are not the cache's.
        """
        require_parts(self._shapes, len(self._parts[0]), k, v)
        n_new, n_held = k.shape[-2], self._parts[0].shape[-2]
        self._require_room(n_new, n_held, positions)
        positions = positions.expand(len(k), -1)
        new = [part if i != self._turned else self._turn(part, positions, -1) for i, part in enumerate((k, v))]
        held = self._parts
        if n_held + n_new > self.capacity:
            held = tuple(sinks.evict_with_sinks(part, self._n_sinks, self._window - n_new) for part in held)
        self._parts = tuple(
            torch.cat([old, part.to(old.dtype)], dim=-2) for old, part in zip(held, new, strict=True))
        self.seen += n_new
        before = torch.arange(-held[0].shape[-2], 0, device=positions.device) + positions[:, :1]
        kv_positions = torch.cat([before, positions], dim=1)
        out = [part.to(k.dtype) if i != self._turned else self._turn(part.to(k.dtype), kv_positions, 1)
               for i, part in enumerate(self._parts)]
        return out[0], out[1], kv_positions

    def _require_room(self, n_new: int, n_held: int, positions: Tensor) -> None:
        if bool((positions < 0).any()):
            raise ValueError("positions: a sink cache takes no padding, which would be kept in place of a first token; "
                             "use texts of equal length")
        if n_held + n_new > self.capacity and n_new > self._window:
            raise ValueError(f"k has {n_new} tokens, {n_held} are held, and the cache keeps {self._n_sinks} sinks and "
                             f"window={self._window}: pass chunks of at most {self._window}")

    def _turn(self, part: Tensor, positions: Tensor, sign: int) -> Tensor:
        angles = sign * self._angles_of(positions)
        heads = part if part.dim() == 4 else part[:, None]
        return rope.turn_heads(heads, angles).view_as(part)


def sink_caches(
    model: Any, batch_size: int, n_sinks: int = 4, window: int = 64, dtype: torch.dtype | None = None
) -> list[SinkCache]:
    r"""One sink cache a block: the model can read on for ever, in the memory of n_sinks + window tokens.

    Args:
        model: whose positions enter by distances alone (RoPE, ALiBi, ...), without windows of its own.
        batch_size: B.
        n_sinks: tokens at the beginning that stay; 4 in the paper.
        window: recent tokens, the newest included.
        dtype: of what is stored; None means the model's own.
    Returns: layer caches, to be passed as `cache`.
    Raises:
        ValueError: if the model adds positions to tokens, has windows, or is too short for n_sinks + window.
    Source: Xiao et al. 2023, Efficient Streaming Language Models with Attention Sinks, section 3.2.
    Lesson: 10.
    """
    config = model.config
    if not isinstance(config.position, RELATIVE):
        raise ValueError(f"model: with {config.position!r} a token's vector contains its place, which can't be moved; "
                         f"use a model with one of {', '.join(kind.__name__ for kind in RELATIVE)}")
    if config.rotary_dim() and config.position.depends_on_length():
        raise ValueError(f"model: with {config.position!r} angles change with the length; use another scaling")
    if any(getattr(config.attention, "window_of", lambda layer: None)(i) for i in range(config.n_layers)):
        raise ValueError(f"model: its attention, {config.attention!r}, has a window, which would hide the sinks; "
                         "use rolling_caches")
    if n_sinks + window > config.max_seq_len:
        raise ValueError(f"n_sinks={n_sinks}, window={window}: together they may be at most "
                         f"max_seq_len={config.max_seq_len}")
    turned = None if not config.rotary_dim() else 1 if isinstance(config.attention, Mla) else 0
    angles_of = None if turned is None else partial(model_angles, config)
    return [SinkCache(batch_size, n_sinks, window, token_shapes(block.attn), turned, angles_of,
                      **stored_like(model, dtype)) for block in model.blocks]
