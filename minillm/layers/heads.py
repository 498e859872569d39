r"""Between one wide vector a token and several heads: split, merge, and share keys among query heads."""

from einops import rearrange, repeat
from jaxtyping import Shaped
from torch import Tensor


def split_heads(x: Shaped[Tensor, "B T D"], n_heads: int) -> Shaped[Tensor, "B H T Dh"]:
    r"""Cut each token's vector into heads of neighbouring features and bring the heads to the front.

    Args:
        x: (B, T, H * Dh).
        n_heads: H.
    Returns: (B, H, T, Dh), dtype of x.
    Raises:
        ValueError: if the last dimension is not a multiple of n_heads.
    Source: Vaswani et al. 2017, section 3.2.2.
    Lesson: 02.
    """
    if x.shape[-1] % n_heads:
        raise ValueError(f"n_heads={n_heads}: does not divide the width {x.shape[-1]} of x; use a divisor")
    return rearrange(x, "b t (h d) -> b h t d", h=n_heads)


def merge_heads(x: Shaped[Tensor, "B H T Dh"]) -> Shaped[Tensor, "B T D"]:
    r"""Put the heads of each token side by side again: the inverse of `split_heads`.

    Args:
        x: (B, H, T, Dh).
    Returns: (B, T, H * Dh), dtype of x.
    Source: Vaswani et al. 2017, section 3.2.2 (Concat).
    Lesson: 02.
    """
    return rearrange(x, "b h t d -> b t (h d)")


def repeat_kv(x: Shaped[Tensor, "B Hk T Dh"], n_repeats: int) -> Shaped[Tensor, "B H T Dh"]:
    r"""Give each key/value head to `n_repeats` query heads in a row: heads 0 0 1 1, not 0 1 0 1.

    Args:
        x: keys or values, (B, Hk, T, Dh).
        n_repeats: query heads per key/value head, H / Hk.
    Returns: (B, Hk * n_repeats, T, Dh), dtype of x.
    Source: Ainslie et al. 2023, GQA, section 2.2.
    Lesson: 03.
    """
    return repeat(x, "b h t d -> b (h r) t d", r=n_repeats)
