r"""Feed-forward networks with a gate: one projection of the token decides how much of another one passes.

    x ---> gate_proj ---> sigmoid, ReLU, GELU or Swish ---+
    |                                                     * ---> down_proj --->
    +----> up_proj ---------------------------------------+
"""

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from minillm.layers import activations

Part = Callable[[Tensor], Tensor]


def glu_form(
    x: Float[Tensor, "*batch D"], gate_proj: Part, up_proj: Part, down_proj: Part, act: Part
) -> Float[Tensor, "*batch D"]:
    r"""down_proj(act(gate_proj(x)) * up_proj(x)): what all gated FFNs share.

    Args:
        x: (..., D), float.
        gate_proj: (..., D) -> (..., F).
        up_proj: (..., D) -> (..., F).
        down_proj: (..., F) -> (..., D).
        act: bends each number of the gate.
    Returns: (..., D), dtype of x.
    Source: Shazeer 2020, GLU Variants Improve Transformer, equation 6.
    Lesson: 06.
    """
    return down_proj(act(gate_proj(x)) * up_proj(x))


def glu(x: Float[Tensor, "*batch D"], gate_proj: Part, up_proj: Part, down_proj: Part) -> Float[Tensor, "*batch D"]:
    r"""The first gated linear unit: the gate is a sigmoid, between shut (0) and open (1).

    Args:
        x: (..., D), float.
        gate_proj: (..., D) -> (..., F).
        up_proj: (..., D) -> (..., F).
        down_proj: (..., F) -> (..., D).
    Returns: (..., D), dtype of x.
    Source: Dauphin et al. 2016, section 2 (there without down_proj); Shazeer 2020, equation 6.
    Lesson: 06.
    """
    return glu_form(x, gate_proj, up_proj, down_proj, act=activations.activation("sigmoid"))


def reglu(x: Float[Tensor, "*batch D"], gate_proj: Part, up_proj: Part, down_proj: Part) -> Float[Tensor, "*batch D"]:
    r"""A gated FFN whose gate is a ReLU: shut below 0, and ever more open above.

    Args:
        x: (..., D), float.
        gate_proj: (..., D) -> (..., F).
        up_proj: (..., D) -> (..., F).
        down_proj: (..., F) -> (..., D).
    Returns: (..., D), dtype of x.
    Source: Shazeer 2020, equation 6.
    Lesson: 06.
    """
    return glu_form(x, gate_proj, up_proj, down_proj, act=activations.activation("relu"))


def geglu(x: Float[Tensor, "*batch D"], gate_proj: Part, up_proj: Part, down_proj: Part) -> Float[Tensor, "*batch D"]:
    r"""A gated FFN whose gate is a GELU, the exact one.

    Args:
        x: (..., D), float.
        gate_proj: (..., D) -> (..., F).
        up_proj: (..., D) -> (..., F).
        down_proj: (..., F) -> (..., D).
    Returns: (..., D), dtype of x.
    Source: Shazeer 2020, equation 6. T5 version 1.1 and Gemma take the tanh approximation.
    Lesson: 06.
    """
    return glu_form(x, gate_proj, up_proj, down_proj, act=activations.activation("gelu"))


def swiglu(x: Float[Tensor, "*batch D"], gate_proj: Part, up_proj: Part, down_proj: Part) -> Float[Tensor, "*batch D"]:
    r"""A gated FFN whose gate is Swish with beta 1 (SiLU), the FFN of LLaMA.

    Args:
        x: (..., D), float.
        gate_proj: makes the gate, (..., D) -> (..., F).
        up_proj: makes what the gate is to let through, (..., D) -> (..., F).
        down_proj: back to the width of x, (..., F) -> (..., D).
    Returns: (..., D), dtype of x.
    Source: Shazeer 2020, equation 6; Touvron et al. 2023 (LLaMA), section 2.2.
    Lesson: 06.
    """
    return down_proj(F.silu(gate_proj(x)) * up_proj(x))


def equal_param_width(d_ff: int, multiple_of: int = 1) -> int:
    r"""The hidden width at which a GLU has as many weights as an MLP of width d_ff: two thirds, three matrices for two.

    Args:
        d_ff: hidden width of the MLP, at least 2.
        multiple_of: the width is rounded up to a multiple of this, for the sake of the hardware.
    Returns: the largest whole number up to 2/3 of d_ff, then rounded up; at least 1.
    Raises:
        ValueError: if a size is too small.
    Source: Shazeer 2020, section 3; rounding as in LLaMA's published code.
    Lesson: 06.
    """
    if d_ff < 2 or multiple_of < 1:
        raise ValueError(f"d_ff={d_ff}, multiple_of={multiple_of}: use d_ff of at least 2, multiple_of of at least 1")
    return -(-(2 * d_ff // 3) // multiple_of) * multiple_of
