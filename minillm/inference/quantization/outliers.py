r"""LLM.int8(): the few columns with outliers in floats, the rest in 8 bits."""

from jaxtyping import Bool, Float
from torch import Tensor

from minillm.inference.quantization import rows, w8a8


def outlier_columns(x: Float[Tensor, "T C"], threshold: float = 6.0) -> Bool[Tensor, "C"]:
    r"""The features that are further from 0 than a threshold in at least one token.

    Args:
        x: activations, (T, C), float.
        threshold: at most so far is no outlier.
    Returns: (C,), bool.
    Source: Dettmers et al. 2022, LLM.int8(), section 3.2: the set O; 6.0 is the paper's threshold.
    Lesson: 11.
    """
    return (x.abs() > threshold).any(dim=0)


def outlier_split(
    x: Float[Tensor, "T C"], weight: Float[Tensor, "R C"], threshold: float = 6.0
) -> Float[Tensor, "T R"]:
    r"""x @ weight.T, with the columns of outliers in floats and all others in int8.

    One feature of 60 among features near 1 makes a token's step 60 / 127: the others keep a handful of codes. Without
    it the step is 1 / 127. So the outliers' columns are taken out of both matrices before the scales are
    computed, multiplied as they are, and added to the product of the rest.

    Args:
        x: activations, (T, C), float.
        weight: (R, C), float.
        threshold: a column with a number further from 0 than this goes into the float part.
    Returns: (T, R), dtype of x.
    Source: Dettmers et al. 2022, LLM.int8(), section 3.2, equation 8. There the float part is in float16, and the
        weights' scales are those of whole rows, computed once; here those of the columns that are left.
    Lesson: 11.
    """
    outliers = outlier_columns(x, threshold)
    x_int8, x_scales = rows.quantize_rows(x.masked_fill(outliers, 0.0))
    q_weight, scales = rows.quantize_rows(weight.masked_fill(outliers, 0.0))
    regular = w8a8.int8_matmul(x_int8, q_weight).float() * x_scales * scales.T
    return (regular + x[:, outliers].float() @ weight[:, outliers].float().T).to(x.dtype)
