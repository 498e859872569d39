r"""How many weights a model has and what a token costs, from its configuration alone; and how many are trained."""

from dataclasses import replace

from torch import nn

from minillm.config import AttentionOptions, Glu, Learned, ModelConfig


def block_parameters(config: ModelConfig) -> dict[str, int]:
    r"""Count the trainable numbers of one block, part by part.

    Args:
        config: the model's configuration.
    Returns: numbers for `attention` (four projections), `ffn` (two matrices, or three with a gate) and `norm` (two),
        biases included where the configuration has them.
    Source: the shapes themselves; compare Kaplan et al. 2020, Scaling Laws, table 1.
    Lesson: 07.
    """
    c, width, bias = config, config.d_model, config.attention
    q_width, kv_width = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
    attention = width * q_width + 2 * width * kv_width + q_width * width
    attention += bias.qkv_bias * (q_width + 2 * kv_width) + bias.o_bias * width
    n_up = 2 if isinstance(c.ffn, Glu) else 1
    ffn = (n_up + 1) * width * c.ffn.d_ff + c.ffn.bias * (n_up * c.ffn.d_ff + width)
    norm = width * (2 if c.norm.kind == "layer" and c.norm.bias else 1)
    return {"attention": attention, "ffn": ffn, "norm": 2 * norm}


def count_parameters(config: ModelConfig) -> dict[str, int]:
    r"""Count the trainable numbers of a GPT, part by part, without building it.

    A tied lm_head is the token embedding itself and counts once. A pre-norm model has one norm more than its blocks:
    the final one.

    Args:
        config: the model's configuration.
    Returns: numbers for `embedding`, `position`, `attention`, `ffn`, `norm`, `lm_head` over all layers, and `total`.
    Source: the shapes themselves; compare Kaplan et al. 2020, Scaling Laws, table 1.
    Lesson: 07.
    """
    c, block = config, block_parameters(config)
    parts = {
        "embedding": c.vocab_size * c.d_model,
        "position": c.max_seq_len * c.d_model if isinstance(c.position, Learned) else 0,
        "attention": c.n_layers * block["attention"],
        "ffn": c.n_layers * block["ffn"],
        "norm": c.n_layers * block["norm"] + (block["norm"] // 2 if c.residual == "pre" else 0),
        "lm_head": 0 if c.tie_embeddings else c.vocab_size * c.d_model,
    }
    return {**parts, "total": sum(parts.values())}


def n_trainable(model: nn.Module) -> int:
    r"""How many numbers of a built model are trained: those that need gradients.

    Args:
        model: any; of weights in few bits the codes do not count, they are no parameters.
    Returns: the count; what several parts share counts once.
    Lesson: 13.
    """
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def flops_per_token(config: ModelConfig, kv_len: int) -> dict[str, int]:
    r"""Floating-point operations of one token's forward pass; a multiply and an add are two.

    Every weight of a matrix is used once a token; attention adds two products with kv_len keys and values. Biases,
    norms, activations and the softmax are left out: they are small. A backward pass costs about twice the forward.

    Args:
        config: the model's configuration.
        kv_len: keys that the token attends to.
    Returns: numbers for `matrices` (those of all blocks), `attention` (scores, and the weighted sum of values),
        `lm_head`, and `total`.
    Source: Kaplan et al. 2020, Scaling Laws for Neural Language Models, section 2.1.
    Lesson: 07.
    """
    c = config
    block = block_parameters(replace(c, attention=AttentionOptions(), ffn=replace(c.ffn, bias=False)))  # no biases
    parts = {
        "matrices": 2 * c.n_layers * (block["attention"] + block["ffn"]),
        "attention": 4 * c.n_layers * kv_len * c.n_heads * c.head_dim,
        "lm_head": 2 * c.vocab_size * c.d_model,
    }
    return {**parts, "total": sum(parts.values())}
