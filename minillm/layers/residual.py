r"""Where the norm stands: one residual branch in five forms, pure functions.

    no residual    pre-norm         post-norm        sandwich         DeepNorm
    x              x -------+       x -------+       x -------+       x ---------+
    |              |        |       |        |       |        |       |          |
    part           norm     |       part     |       norm     |       part    * alpha
    |              part     |       |        |       part     |       |          |
    norm           |        |       |        |       norm     |       |          |
    x              + <------+       + <------+       + <------+       + <--------+
                   x                norm             x                norm
                                    x                                 x

Only in pre-norm and sandwich does x itself pass from bottom to top without a norm on its way.
A block is two branches in a row: attention, then the FFN.
"""

from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor

Step = Callable[[Tensor], Tensor]


def pre_norm_branch(x: Float[Tensor, "*batch D"], norm: Step, part: Step) -> Float[Tensor, "*batch D"]:
    r"""The part reads a normalized copy, and its answer is added to the untouched stream.

    Args:
        x: the residual stream, (..., D), float.
        norm: (..., D) -> (..., D).
        part: attention or FFN, (..., D) -> (..., D).
    Returns: (..., D), dtype of x.
    Source: Xiong et al. 2020, On Layer Normalization in the Transformer Architecture, figure 1b.
    Lesson: 05.
    """
    return x + part(norm(x))


def post_norm_branch(x: Float[Tensor, "*batch D"], norm: Step, part: Step) -> Float[Tensor, "*batch D"]:
    r"""Add the part's answer first, then normalize the sum: the stream itself goes through every norm.

    Args:
        x: the residual stream, (..., D), float.
        norm: (..., D) -> (..., D).
        part: attention or FFN, (..., D) -> (..., D).
    Returns: (..., D), dtype of x.
    Source: Vaswani et al. 2017, section 3.1.
    Lesson: 05.
    """
    return norm(x + part(x))


def sandwich_branch(
    x: Float[Tensor, "*batch D"], norm_before: Step, norm_after: Step, part: Step
) -> Float[Tensor, "*batch D"]:
    r"""Pre-norm with a second norm on the answer, so that no part can add more than its norm allows.

    Args:
        x: the residual stream, (..., D), float.
        norm_before: on the part's input, (..., D) -> (..., D).
        norm_after: on the part's answer, (..., D) -> (..., D).
        part: attention or FFN, (..., D) -> (..., D).
    Returns: (..., D), dtype of x.
    Source: Ding et al. 2021 (CogView), section 2.4, Sandwich-LN; Gemma 2 norms its branches in the same two places.
    Lesson: 05.
    """
    return x + norm_after(part(norm_before(x)))


def deepnorm_branch(x: Float[Tensor, "*batch D"], norm: Step, part: Step, alpha: float) -> Float[Tensor, "*batch D"]:
    r"""Post-norm whose stream counts alpha times; alpha = 1 is post-norm.

    The other half of DeepNorm is at initialization: the weights of the FFN, of v and of o are drawn beta times
    smaller (`deepnorm.deepnorm_constants` gives both numbers).

    Args:
        x: the residual stream, (..., D), float.
        norm: (..., D) -> (..., D).
        part: attention or FFN, (..., D) -> (..., D).
        alpha: weight of the stream, >= 1 in the paper.
    Returns: (..., D), dtype of x.
    Source: Wang et al. 2022, DeepNet: Scaling Transformers to 1,000 Layers, figure 2 and equation 4.
    Lesson: 05.
    """
    return norm(alpha * x + part(x))


def pre_norm_block(x: Float[Tensor, "*batch D"], branches: Sequence[tuple[Step, Step]]) -> Float[Tensor, "*batch D"]:
    r"""Any number of pre-norm branches in a row: each reads what the branches before it have left on the stream.

    Two branches (attention, FFN) make a decoder's block, three (with cross-attention between them) that of an
    encoder-decoder, ninety-six the stack of a model with 48 layers.

    Args:
        x: the residual stream, (..., D), float.
        branches: pairs (norm, part), first to last; each (..., D) -> (..., D).
    Returns: (..., D), dtype of x; x itself if there are no branches.
    Source: Xiong et al. 2020, figure 1b, for any number of parts.
    Lesson: 05.
    """
    for norm, part in branches:
        x = x + part(norm(x))
    return x
