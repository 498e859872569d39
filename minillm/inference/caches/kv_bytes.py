r"""What a cache weighs: computed from the configuration, and read off the memory that is really held."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from minillm.config import Mla, ModelConfig


def kv_bytes(config: ModelConfig, kv_len: int, batch_size: int = 1, dtype: torch.dtype | None = None) -> int:
    r"""Bytes of the keys and values that a model must keep of a text.

    Query heads do not count: what is stored has n_kv_heads heads, and with latent attention none at all. A layer with a
    window keeps no more tokens than the window holds.

    Args:
        config: the model's configuration.
        kv_len: tokens of each sequence, at least 0.
        batch_size: sequences.
        dtype: of the cache; None = float32.
    Returns: bytes of all layers together; positions and block tables are not counted.
    Raises:
        ValueError: if kv_len or batch_size is negative.
    Source: Kwon et al. 2023, PagedAttention, section 3; DeepSeek-AI 2024, DeepSeek-V2, table 1; Jiang et al. 2023,
        Mistral 7B, section 2, for windows.
    Lesson: 10.
    """
    if kv_len < 0 or batch_size < 0:
        raise ValueError(f"kv_len={kv_len}, batch_size={batch_size}: use counts of at least 0")
    options = config.attention
    if isinstance(options, Mla):
        numbers = config.n_layers * kv_len * (options.kv_rank + options.rope_dim)
    else:
        windows = [options.window_of(layer) for layer in range(config.n_layers)]
        tokens = sum(kv_len if window is None else min(kv_len, window) for window in windows)
        numbers = tokens * 2 * config.n_kv_heads * config.head_dim
    return numbers * batch_size * (dtype or torch.float32).itemsize


def held_bytes(layer_caches: Sequence[Any]) -> dict[str, int]:
    r"""Bytes of the memory that layer caches hold, whatever their kind, each storage counted once.

    Args:
        layer_caches: one a block, as a model takes them.
    Returns: "keys_values" (every tensor that is not int64: scales are among them), "positions" (the int64 ones), and
        "total".
    Reason: a formula is checked on the memory itself.
    Lesson: 10.
    """
    seen: dict[int, tuple[bool, int]] = {}
    for tensor in _tensors_of(layer_caches, set()):
        storage = tensor.untyped_storage()
        seen[storage._cdata] = (tensor.dtype == torch.int64, storage.nbytes())
    counts = [sum(size for is_position, size in seen.values() if is_position is kind) for kind in (False, True)]
    return {"keys_values": counts[0], "positions": counts[1], "total": sum(counts)}


def _tensors_of(value: Any, visited: set[int]) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif id(value) not in visited:  # a pool is reached from every layer
        visited.add(id(value))
        parts = value if isinstance(value, (list, tuple)) else getattr(value, "__dict__", {}).values()
        for part in parts:
            yield from _tensors_of(part, visited)
