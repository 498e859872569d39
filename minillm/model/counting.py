r"""How many weights a model has and how many operations a token costs, from its configuration alone."""

from minillm.config import Glu, Learned, ModelConfig


def count_parameters(config: ModelConfig) -> dict[str, int]:
    r"""Count the trainable numbers of a GPT, part by part, without building it.

    A tied lm_head is the token embedding itself and counts once.

    Args:
        config: the model's configuration.
    Returns: numbers for `embedding`, `position`, `attention`, `ffn`, `norm`, `lm_head` over all layers, and `total`.
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
    n_final_norms = 1 if c.residual == "pre" else 0
    parts = {
        "embedding": c.vocab_size * width,
        "position": c.max_seq_len * width if isinstance(c.position, Learned) else 0,
        "attention": c.n_layers * attention,
        "ffn": c.n_layers * ffn,
        "norm": (2 * c.n_layers + n_final_norms) * norm,
        "lm_head": 0 if c.tie_embeddings else c.vocab_size * width,
    }
    return {**parts, "total": sum(parts.values())}


def flops_per_token(config: ModelConfig, kv_len: int) -> dict[str, int]:
    r"""Floating-point operations of one token's forward pass; a multiply and an add are two.

    Every weight of a matrix is used once a token; attention adds two products with kv_len keys and values. Norms,
    activations and the softmax are left out: they are small. A backward pass costs about twice the forward.

    Args:
        config: the model's configuration.
        kv_len: keys that the token attends to.
    Returns: numbers for `matrices`, `attention`, `lm_head`, and `total`.
    Source: Kaplan et al. 2020, Scaling Laws for Neural Language Models, section 2.1.
    Lesson: 07.
    """
    c, counts = config, count_parameters(config)
    q_width, kv_width = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
    biases = c.attention.qkv_bias * (q_width + 2 * kv_width) + c.attention.o_bias * c.d_model
    biases += c.ffn.bias * (c.ffn.d_ff * (2 if isinstance(c.ffn, Glu) else 1) + c.d_model)
    parts = {
        "matrices": 2 * (counts["attention"] + counts["ffn"] - c.n_layers * biases),
        "attention": 4 * c.n_layers * kv_len * c.n_heads * c.head_dim,
        "lm_head": 2 * c.vocab_size * c.d_model,
    }
    return {**parts, "total": sum(parts.values())}
