r"""From a configuration to parts: the one place where choices by name become modules."""

from functools import partial

from torch import Tensor, nn

from minillm.config import Alibi, Glu, ModelConfig
from minillm.layers import alibi, masks
from minillm.layers.attention import Attention, Rule
from minillm.layers.ffn import GLU, MLP
from minillm.layers.norms import LayerNorm, RMSNorm
from minillm.model.block import Block


def build_norm(config: ModelConfig) -> nn.Module:
    r"""The norm that the configuration names, for one place in the model.

    Args:
        config: the model's configuration.
    Returns: a module on (..., D).
    Lesson: 07.
    """
    norm = config.norm
    if norm.kind == "rms":
        return RMSNorm(config.d_model, norm.eps)
    return LayerNorm(config.d_model, norm.eps, norm.bias)


def build_block(config: ModelConfig) -> Block:
    r"""One block with fresh parts.

    Args:
        config: the model's configuration.
    Returns: a `Block`.
    Lesson: 07.
    """
    c = config
    attn = Attention(
        c.d_model, c.n_heads, c.n_kv_heads, c.head_dim, mask_rule=_mask_rule(c), bias_rule=_bias_rule(c),
        qkv_bias=c.attention.qkv_bias, o_bias=c.attention.o_bias)
    ffn = (GLU if isinstance(c.ffn, Glu) else MLP)(c.d_model, c.ffn.d_ff, c.ffn.activation, c.ffn.bias)
    return Block(attn, ffn, build_norm(c), build_norm(c), c.residual, c.dropout)


def _mask_rule(config: ModelConfig) -> Rule | None:
    window = config.attention.window
    if window is None:
        return None

    def rule(q_positions: Tensor, kv_positions: Tensor) -> Tensor:  # looks the function up anew at each call
        return masks.sliding_window_mask(q_positions, kv_positions, window)

    return rule


def _bias_rule(config: ModelConfig) -> Rule | None:
    return partial(_alibi, config.n_heads) if isinstance(config.position, Alibi) else None


def _alibi(n_heads: int, q_positions: Tensor, kv_positions: Tensor) -> Tensor:
    slopes = alibi.alibi_slopes(n_heads).to(q_positions.device)
    return alibi.alibi_bias(q_positions, kv_positions, slopes)
