r"""How many bytes a training step takes, foretold from the configuration.

    for each weight:         the weight itself, its gradient, AdamW's two averages (and a float32 master in 16 bits)
    for each token, layer:   what the backward pass will read again
    for each token:          the logits, in float32, three times at the worst moment

The first line does not depend on the batch, the other two do not depend on the optimizer: that is why each method
that saves memory acts on one of them and leaves the rest alone.
"""

from minillm.config import AttentionOptions, Glu, Mlp, ModelConfig
from minillm.config.require import require
from minillm.model import counting
from minillm.training.precision import DTYPES


def state_bytes(n_parameters: int, dtype: str = "fp32") -> dict[str, int]:
    r"""What AdamW's training keeps for the weights from step to step: 16 bytes each, in 16 bits as well.

    In float32 these are 4 for the weight, 4 for its gradient and 8 for two averages; in 16 bits 2, 2, 8 and 4 for the
    master. (An engine that adds micro-batches up in float32 needs 4 more; ours does.)

    Args:
        n_parameters: weights of the model; at least 1.
        dtype: `fp32`, `bf16` or `fp16`: what forward and backward compute in.
    Returns: bytes of `weights`, `gradients`, `masters` and `moments`.
    Raises:
        ValueError: if an argument is out of range.
    Source: Rajbhandari et al. 2019, ZeRO, section 3.1.
    Lesson: 08.
    """
    require(n_parameters >= 1, "n_parameters", n_parameters, "use a number of weights, at least 1")
    size = _bytes_of(dtype)
    return {
        "weights": size * n_parameters,
        "gradients": size * n_parameters,
        "masters": 0 if size == 4 else 4 * n_parameters,
        "moments": 8 * n_parameters,
    }


def activation_bytes(
    config: ModelConfig,
    batch_size: int,
    seq_len: int,
    *,
    dtype: str = "fp32",
    recompute: bool = False,
    scores_kept: bool = True,
) -> dict[str, int]:
    r"""What a forward pass leaves for the backward pass, and what both hold of the logits.

    A matrix product keeps its input, a softmax its output, a norm its input, an activation its input, a product both
    factors. What is small beside that (masks, indices, statistics of norms) is left out.

    Args:
        config: a decoder of dense blocks, pre- or post-norm, without dropout.
        batch_size: sequences that go through at once; at least 1.
        seq_len: tokens in each, at least 1.
        dtype: `fp32`, `bf16` or `fp16`.
        recompute: whether blocks keep only their input; then one block at a time is whole.
        scores_kept: whether attention keeps its (T, T) weights; False for a kernel such as flash attention.
    Returns: bytes of `activations` (blocks, final norm, input of the head) and `logits` (three times float32).
    Raises:
        ValueError: if the model has parts that are not counted here, or an argument is out of range.
    Source: the shapes; compare Korthikanti et al. 2022, Reducing Activation Recomputation, section 4.1.
    Lesson: 08.
    """
    require(batch_size >= 1, "batch_size", batch_size, "use at least 1")
    require(seq_len >= 1, "seq_len", seq_len, "use at least 1")
    _require_counted(config)
    n_tokens, size = batch_size * seq_len, _bytes_of(dtype)
    numbers = block_numbers(config, seq_len, scores_kept=scores_kept)
    block = sum(numbers.values())
    ends = config.d_model + (numbers["norms"] // 2 if config.residual == "pre" else 0)
    blocks = config.n_layers * config.d_model + block if recompute else config.n_layers * block
    return {"activations": size * n_tokens * (blocks + ends), "logits": 3 * 4 * n_tokens * config.vocab_size}


def block_numbers(config: ModelConfig, seq_len: int, *, scores_kept: bool = True) -> dict[str, int]:
    r"""How many numbers one block keeps for each token until its backward pass.

    Args:
        config: as in `activation_bytes`.
        seq_len: keys that each query meets, hidden ones included.
        scores_kept: as in `activation_bytes`.
    Returns: numbers for `norms`, `attention` (input of the projections, q, k, v as all heads read them, input of
        o_proj), `scores` and `ffn`.
    Source: as `activation_bytes`.
    Lesson: 08.
    """
    heads = config.n_heads * config.head_dim
    return {
        "norms": 2 * config.d_model * (2 if config.norm.kind == "rms" else 1),  # torch's RMSNorm keeps its quotient too
        "attention": config.d_model + 4 * heads,
        "scores": config.n_heads * seq_len if scores_kept else 0,
        "ffn": config.d_model + config.ffn.d_ff * (4 if isinstance(config.ffn, Glu) else 2),
    }


def training_bytes(
    config: ModelConfig,
    batch_size: int,
    seq_len: int,
    *,
    dtype: str = "fp32",
    recompute: bool = False,
    scores_kept: bool = True,
) -> dict[str, int]:
    r"""The most that one step of training holds at a time, part by part.

    Args:
        config: as in `activation_bytes`.
        batch_size: of one micro-batch; how many of them make a step does not matter.
        seq_len: tokens a sequence.
        dtype: as in `activation_bytes`.
        recompute: as in `activation_bytes`.
        scores_kept: as in `activation_bytes`.
    Returns: bytes of `weights`, `gradients`, `masters`, `moments`, `activations`, `logits`, and `total`.
    Source: as `state_bytes` and `activation_bytes`.
    Lesson: 08.
    """
    parts = state_bytes(counting.count_parameters(config)["total"], dtype) | activation_bytes(
        config, batch_size, seq_len, dtype=dtype, recompute=recompute, scores_kept=scores_kept)
    return {**parts, "total": sum(parts.values())}


def _bytes_of(dtype: str) -> int:
    require(dtype in DTYPES, "dtype", dtype, f"use one of {list(DTYPES)}")
    return DTYPES[dtype].itemsize


def _require_counted(config: ModelConfig) -> None:
    require(isinstance(config.attention, AttentionOptions), "config.attention", config.attention,
            "latent attention is not counted here; use AttentionOptions")
    require(isinstance(config.ffn, Mlp | Glu), "config.ffn", config.ffn, "experts are not counted here; use Mlp or Glu")
    require(config.residual in ("pre", "post"), "config.residual", config.residual, "use 'pre' or 'post'")
    require(config.dropout == 0, "config.dropout", config.dropout, "its masks are not counted here; use 0")
