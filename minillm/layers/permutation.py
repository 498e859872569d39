r"""The mask of a permutation language model: who may see whom when tokens are predicted in any order."""

from jaxtyping import Bool, Int
from torch import Tensor

from minillm.layers import masks


def permutation_mask(order: Int[Tensor, "T"], sees_itself: bool) -> Bool[Tensor, "T T"]:
    r"""A position sees those that come before it in the order of prediction, wherever they stand in the text.

    It is the causal mask with ranks in the place of positions. XLNet needs it twice: the content stream sees itself,
    the query stream, which has to predict the token, does not.

    Args:
        order: (T,), int, a permutation of 0 ... T-1: the position that is predicted first, second, ...
        sees_itself: whether a position also sees itself.
    Returns: (T, T) bool, True = may attend; rows and columns are positions in the text.
    Source: Yang et al. 2019, XLNet, section 2.3 and figure 1.
    Lesson: 07.
    """
    ranks = order.argsort()
    queries = ranks if sees_itself else ranks - 1
    return masks.causal_mask(queries, ranks)
