r"""QK-norm: queries and keys of a bounded length, and the bound that this sets to every score."""

from jaxtyping import Float
from torch import Tensor

from minillm.layers import norms


def qk_norm(
    q: Float[Tensor, "*batch Tq Dh"],
    k: Float[Tensor, "*batch_k Tk Dh"],
    q_weight: Float[Tensor, "Dh"],
    k_weight: Float[Tensor, "Dh"],
    eps: float = 1e-6,
) -> tuple[Float[Tensor, "*batch Tq Dh"], Float[Tensor, "*batch_k Tk Dh"]]:
    r"""RMSNorm over each head's features, on queries and keys, before RoPE and before the dot product.

    However large q and k grow in training, the scores keep within `qk_norm_bound`: the softmax can't be driven to
    one-hot by size alone.

    Args:
        q: queries, (..., Tq, Dh), float.
        k: keys, (..., Tk, Dh), float.
        q_weight: (Dh,), one for all heads.
        k_weight: (Dh,), one for all heads.
        eps: added to the mean square, inside the root.
    Returns: normalized q and k, shapes and dtypes as given.
    Source: Henry et al. 2020, Query-Key Normalization; Dehghani et al. 2023 (ViT-22B), section 2, with LayerNorm.
        RMSNorm over head_dim with one weight for all heads is Qwen3's form.
    Lesson: 05.
    """
    return norms.rms_norm(q, q_weight, eps), norms.rms_norm(k, k_weight, eps)


def qk_norm_bound(q_weight: Float[Tensor, "Dh"], k_weight: Float[Tensor, "Dh"]) -> Float[Tensor, ""]:
    r"""The largest absolute score that queries and keys under `qk_norm` can reach, after the scale 1 / sqrt(Dh).

    A vector of mean square 1 has length sqrt(Dh), and a weight stretches it at most max|weight| times. The dot product
    of two vectors is at most the product of their lengths. RoPE turns vectors without changing their length, so the
    bound holds after it too.

    Args:
        q_weight: (Dh,).
        k_weight: (Dh,).
    Returns: max|q_weight| * max|k_weight| * sqrt(Dh), a scalar.
    Source: the inequality of Cauchy and Schwarz.
    Lesson: 05.
    """
    return q_weight.abs().max() * k_weight.abs().max() * q_weight.numel() ** 0.5
