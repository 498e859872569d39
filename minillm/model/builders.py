r"""From a configuration to parts: the one place where choices become modules."""

from functools import partial

from torch import Tensor, nn

from minillm.config import Alibi, Experts, Glu, Mla, ModelConfig, Shaw, T5Bias, TransformerXL
from minillm.layers import alibi, deepnorm, masks
from minillm.layers.attention import Attention, Rule
from minillm.layers.ffn import GLU, MLP
from minillm.layers.mla import MultiHeadLatentAttention
from minillm.layers.moe import MoE
from minillm.layers.norms import LayerNorm, RMSNorm
from minillm.layers.shaw import ShawReading
from minillm.layers.t5_bias import T5RelativeBias
from minillm.layers.transformer_xl import TransformerXLReading
from minillm.model.block import Block
from minillm.model.rotation import rope_amplitude


def build_norm(config: ModelConfig, width: int | None = None) -> nn.Module:
    r"""The norm that the configuration names, for one place in the model.

    Args:
        config: the model's configuration.
        width: features to normalize; None means d_model.
    Returns: a module on (..., width).
    Lesson: 07.
    """
    norm, width = config.norm, width or config.d_model
    if norm.kind == "rms":
        return RMSNorm(width, norm.eps)
    return LayerNorm(width, norm.eps, norm.bias)


def build_final_norm(config: ModelConfig) -> nn.Module:
    r"""The norm after the last block; none where each block ends in one.

    Args:
        config: the model's configuration.
    Returns: a module on (..., D).
    Lesson: 07.
    """
    return nn.Identity() if config.residual in ("post", "deepnorm") else build_norm(config)


def build_head(config: ModelConfig, tok_emb: nn.Embedding) -> nn.Linear:
    r"""The last matrix: from the residual stream to the vocabulary.

    Args:
        config: the model's configuration.
        tok_emb: the token embedding, whose matrix it shares if the configuration ties them.
    Returns: a module (..., D) -> (..., V).
    Source: Press and Wolf 2017, Using the Output Embedding to Improve Language Models, for the tie.
    Lesson: 07.
    """
    head = nn.Linear(config.d_model, config.vocab_size, bias=config.ends.head_bias)
    if config.tie_embeddings:
        head.weight = tok_emb.weight
    return head


def build_position_bias(config: ModelConfig, bidirectional: bool = False) -> nn.Module | None:
    r"""The trained bias on scores that all blocks share.

    Args:
        config: the model's configuration.
        bidirectional: whether queries look ahead too.
    Returns: a module (q_positions, kv_positions) -> (..., H, Tq, Tk); None where there is none.
    Source: Raffel et al. 2019, T5, section 2.1.
    Lesson: 04.
    """
    if not isinstance(config.position, T5Bias):
        return None
    return T5RelativeBias(config.n_heads, config.position.n_buckets, config.position.max_distance, bidirectional)


def build_attention(
    config: ModelConfig, layer: int = 0, position_bias: nn.Module | None = None, mask_rule: Rule | None = None
) -> nn.Module:
    r"""The self-attention of one block.

    Args:
        config: the model's configuration.
        layer: index of the block, for what differs from block to block.
        position_bias: from `build_position_bias`.
        mask_rule: who sees whom; None means causal, within the configuration's window.
    Returns: a module called as attn(x, positions, angles, cache).
    Lesson: 07.
    """
    c, options = config, config.attention
    if isinstance(options, Mla):
        return MultiHeadLatentAttention(
            c.d_model, c.n_heads, c.head_dim, options.rope_dim, options.v_dim or c.head_dim, options.kv_rank,
            options.q_rank, scale=options.scale, rope_amplitude=rope_amplitude(c), eps=options.norm_eps or c.norm.eps,
            mask_rule=mask_rule)
    bias_rule = partial(_alibi, c.n_heads) if isinstance(c.position, Alibi) else position_bias
    q_norm, k_norm = (build_norm(c, c.head_dim) if options.qk_norm else None for _ in range(2))
    return Attention(
        c.d_model, c.n_heads, c.n_kv_heads, c.head_dim, mask_rule=mask_rule or _window_rule(options.window_of(layer)),
        bias_rule=bias_rule, qkv_bias=options.qkv_bias, o_bias=options.o_bias, q_norm=q_norm, k_norm=k_norm,
        scale=options.scale, rope_amplitude=rope_amplitude(c), reading=_build_reading(c))


def _build_reading(config: ModelConfig) -> nn.Module | None:
    if isinstance(config.position, Shaw):
        return ShawReading(config.head_dim, config.position.max_distance)
    if isinstance(config.position, TransformerXL):
        return TransformerXLReading(config.d_model, config.n_heads, config.head_dim)
    return None


def build_ffn(config: ModelConfig) -> nn.Module:
    r"""The FFN of one block, or its experts.

    Args:
        config: the model's configuration.
    Returns: a module on (..., D).
    Lesson: 07.
    """
    ffn, width = config.ffn, config.d_model
    if isinstance(ffn, Experts):
        return MoE(width, ffn.n_experts, ffn.top_k, ffn.d_ff, ffn.activation, ffn.capacity_factor)
    return (GLU if isinstance(ffn, Glu) else MLP)(width, ffn.d_ff, ffn.activation, ffn.bias)


def build_block(
    config: ModelConfig, layer: int = 0, position_bias: nn.Module | None = None, mask_rule: Rule | None = None
) -> Block:
    r"""One block with fresh parts.

    Args:
        config: the model's configuration.
        layer: index of the block, for what differs from block to block.
        position_bias: from `build_position_bias`.
        mask_rule: who sees whom; None means causal, within the configuration's window.
    Returns: a `Block`.
    Lesson: 07.
    """
    c = config
    attn = build_attention(c, layer, position_bias, mask_rule)
    out_norms = [build_norm(c) if c.residual == "sandwich" else None for _ in range(2)]
    alpha = deepnorm.deepnorm_constants(c.n_layers)[0] if c.residual == "deepnorm" else 1.0
    return Block(attn, build_ffn(c), build_norm(c), build_norm(c), c.residual, c.dropout, *out_norms, alpha)


def _window_rule(window: int | None) -> Rule | None:
    if window is None:
        return None

    def rule(q_positions: Tensor, kv_positions: Tensor) -> Tensor:  # looks the function up anew at each call
        return masks.sliding_window_mask(q_positions, kv_positions, window)

    return rule


def _alibi(n_heads: int, q_positions: Tensor, kv_positions: Tensor) -> Tensor:
    slopes = alibi.alibi_slopes(n_heads).to(q_positions.device)
    return alibi.alibi_bias(q_positions, kv_positions, slopes)
