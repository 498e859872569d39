r"""Softmax of a row that arrives in pieces: one pass, and no piece is needed twice."""

from jaxtyping import Float
from torch import Tensor


def online_softmax(
    scores: Float[Tensor, "*batch Tq n"],
    v: Float[Tensor, "*batch n Dv"],
    running_max: Float[Tensor, "*batch Tq 1"],
    running_sum: Float[Tensor, "*batch Tq 1"],
    running_out: Float[Tensor, "*batch Tq Dv"],
) -> tuple[Float[Tensor, "*batch Tq 1"], Float[Tensor, "*batch Tq 1"], Float[Tensor, "*batch Tq Dv"]]:
    r"""Take n more keys into a softmax-weighted average of values.

    All exponentials are taken relative to the largest score so far. If the new scores hold a larger one, what has been
    summed before is multiplied by exp(old max - new max), once for all. Begin with -inf, 0 and 0; when all keys have
    been seen, the average is running_out / running_sum.

    Args:
        scores: of the new keys, (..., Tq, n), float; -inf = blocked.
        v: values of the new keys, (..., n, Dv), float.
        running_max: the largest score so far, (..., Tq, 1); -inf if there was none.
        running_sum: the sum of exp(score - running_max) so far, (..., Tq, 1).
        running_out: the sum of exp(score - running_max) * v so far, (..., Tq, Dv).
    Returns: running_max, running_sum and running_out with the new keys in them; dtype of scores.
    Source: Milakov and Gimelshein 2018, algorithm 3; Dao et al. 2022, algorithm 1, steps 10 to 12, where running_out is
        divided by the sum at each step; Dao 2023, algorithm 1, steps 9 and 10, divides once at the end, as here.
    Lesson: 03.
    """
    new_max = running_max.maximum(scores.amax(dim=-1, keepdim=True))
    # A row that has seen no key yet: any finite number instead of -inf, so that -inf - (-inf) is not asked.
    shift = new_max.masked_fill(new_max == float("-inf"), 0.0)
    exp = (scores - shift).exp()
    rescale = (running_max - shift).exp()
    new_sum = running_sum * rescale + exp.sum(dim=-1, keepdim=True)
    return new_max, new_sum, running_out * rescale + exp @ v.to(exp.dtype)
