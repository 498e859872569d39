r"""From multi-head to grouped-query attention: every group of key/value heads becomes its mean."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor


def mean_pool_kv(weight: Float[Tensor, "HDh *D"], n_heads: int, n_kv_heads: int) -> Float[Tensor, "HkDh *D"]:
    r"""Average the rows of neighbouring heads, feature by feature, so that fewer key/value heads are left.

    Query heads 0 .. H/Hk - 1 will share the first pooled head, and so on: the grouping of `repeat_kv`.

    Args:
        weight: of k_proj or v_proj, (H * Dh, D), as in nn.Linear; or its bias, (H * Dh,).
        n_heads: H, key/value heads that it has.
        n_kv_heads: Hk, heads that it shall have; divides n_heads.
    Returns: (Hk * Dh, D) or (Hk * Dh,), dtype of weight.
    Raises:
        ValueError: if n_heads does not divide the rows, or n_kv_heads not n_heads.
    Source: Ainslie et al. 2023, GQA, section 2.1 and figure 1 (there for MQA; section 2.2 for groups).
    Lesson: 03.
    """
    if weight.shape[0] % n_heads:
        raise ValueError(f"n_heads={n_heads}: does not divide the {weight.shape[0]} rows of weight; use a divisor")
    if n_heads % n_kv_heads:
        raise ValueError(f"n_kv_heads={n_kv_heads}: use a divisor of n_heads={n_heads}")
    grouped = weight.unflatten(0, (n_kv_heads, n_heads // n_kv_heads, -1))
    return grouped.mean(dim=1).flatten(0, 1)


def pool_state(state: Mapping[str, Tensor], n_heads: int, n_kv_heads: int) -> dict[str, Tensor]:
    r"""The weights of a model with H key/value heads as weights for the same model with Hk.

    Args:
        state: a state_dict; every k_proj and v_proj in it has H heads.
        n_heads: H.
        n_kv_heads: Hk, divides n_heads.
    Returns: a new state_dict, in which only k_proj and v_proj differ.
    Source: Ainslie et al. 2023, GQA, section 2.1. The further training that follows there is the caller's.
    Lesson: 03.
    """
    names = ("k_proj.weight", "v_proj.weight", "k_proj.bias", "v_proj.bias")
    return {
        name: mean_pool_kv(value, n_heads, n_kv_heads) if name.endswith(names) else value
        for name, value in state.items()
    }
