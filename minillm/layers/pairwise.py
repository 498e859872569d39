r"""Every pair of two lists at once: the broadcasting trick behind masks and relative positions."""

from jaxtyping import Shaped
from torch import Tensor


def broadcast_pairwise(a: Shaped[Tensor, "*rows n"], b: Shaped[Tensor, "*columns m"]) -> Shaped[Tensor, "*out n m"]:
    r"""Subtract every element of b from every element of a.

    `a` becomes a column and `b` a row; broadcasting stretches both to a table: out[i, j] = a[i] - b[j].
    With positions of queries and keys it gives all distances, from which every mask here is made.

    Args:
        a: (..., n), any number type.
        b: (..., m), the same type; leading dimensions broadcast.
    Returns: (..., n, m), the type of a.
    Source: NumPy documentation, "Broadcasting"; PyTorch documentation, "Broadcasting semantics".
    Lesson: 00.
    """
    return a[..., :, None] - b[..., None, :]
