r"""What every model does around its blocks: position vectors, angles, and a block's arguments bound to it."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from minillm.config import Learned, ModelConfig, Recursive, Sinusoidal
from minillm.layers import recorder, sinusoidal
from minillm.layers.recursive import RecursivePosition
from minillm.model.rotation import model_angles


def build_pos_emb(config: ModelConfig) -> nn.Module | None:
    r"""The trained part that turns positions into vectors.

    Args:
        config: the model's configuration.
    Returns: a module positions (..., T) -> (..., T, D); None where nothing trained is added.
    Lesson: 04.
    """
    if isinstance(config.position, Learned):
        return nn.Embedding(config.max_seq_len, config.d_model)
    if isinstance(config.position, Recursive):
        return RecursivePosition(config.d_model)
    return None


def embed_tokens(config: ModelConfig, tok_emb: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    r"""The lookup of token vectors, times the configuration's factor.

    Args:
        config: the model's configuration.
        tok_emb: the table.
    Returns: token ids (B, T) -> (B, T, D).
    Source: Vaswani et al. 2017, section 3.4, for the factor sqrt(D).
    Lesson: 07.
    """
    scale = config.ends.embedding_scale
    return tok_emb if scale == 1.0 else lambda token_ids: tok_emb(token_ids) * scale


def scaled_head(config: ModelConfig, lm_head: nn.Module) -> Callable[[Tensor], Tensor]:
    r"""lm_head, times the configuration's factor.

    Args:
        config: the model's configuration.
        lm_head: (B, T, D) -> (B, T, V).
    Returns: (B, T, D) -> (B, T, V).
    Lesson: 07.
    """
    scale = config.ends.logit_scale
    return lm_head if scale == 1.0 else lambda x: lm_head(x) * scale


def position_rule(
    config: ModelConfig, pos_emb: nn.Module | None, tok_emb: nn.Module
) -> Callable[[Tensor], Tensor] | None:
    r"""What is added to the tokens' vectors, as a function of positions; padding counts as position 0.

    Args:
        config: the model's configuration.
        pos_emb: from `build_pos_emb`.
        tok_emb: the token embedding, for the dtype; its `weight` is asked for only where it is needed, since a
            quantized one has to be restored.
    Returns: positions (..., T) -> (..., T, D); None where positions enter elsewhere.
    Lesson: 04.
    """
    if pos_emb is not None:
        return lambda positions: pos_emb(positions.clamp(min=0))
    if isinstance(config.position, Sinusoidal):
        base = config.position.base
        return lambda positions: sinusoidal.sinusoidal(positions, config.d_model, base).to(tok_emb.weight.dtype)
    return None


def bind_blocks(
    config: ModelConfig,
    blocks: Iterable[Callable[..., Tensor]],
    positions: Tensor,
    cache: Sequence[Any] | None,
    enter: Callable[[Tensor], Tensor],
) -> list[Callable[[Tensor], Tensor]]:
    r"""Blocks as functions of the residual stream alone, as `gpt_forward` takes them.

    Args:
        config: the model's configuration.
        blocks: called as block(x, positions, angles, layer_cache).
        positions: (T,) or (B, T), int.
        cache: one layer cache a block; None = no cache.
        enter: what happens to the embedding before the first block (a norm, dropout).
    Returns: one function a block, (B, T, D) -> (B, T, D), which reports the residual stream to the recorder.
    Raises:
        ValueError: if there is a cache although angles depend on the length seen.
    Lesson: 07.
    """
    refuse_cache_of_changing_angles(config, cache)
    angles = model_angles(config, positions)
    blocks = list(blocks)
    caches = [None] * len(blocks) if cache is None else cache

    def run(index: int, block: Callable[..., Tensor], layer_cache: Any, x: Tensor) -> Tensor:
        if index == 0:
            x = enter(x)
            recorder.report("residual", x)
        x = block(x, positions, angles, layer_cache)
        recorder.report("residual", x)
        return x

    return [partial(run, i, *pair) for i, pair in enumerate(zip(blocks, caches, strict=True))]


def refuse_cache_of_changing_angles(config: ModelConfig, cache: Sequence[Any] | None) -> None:
    r"""Refuse a cache where it would hold keys turned by angles that are no longer the model's.

    Args:
        config: the model's configuration.
        cache: what the caller brought; None is always fine.
    Raises:
        ValueError: if there is a cache and RoPE's angles depend on the length seen.
    Lesson: 04.
    """
    if cache is not None and config.rotary_dim() and config.position.depends_on_length():
        raise ValueError(
            f"cache: with position={config.position!r} angles change as the text grows, so that keys cached earlier "
            "would be turned wrongly; run without a cache, or use a scaling that does not depend on the length")
