r"""How the modules of attention read: on the path that is switched on, and reporting their weights to a listener."""

from jaxtyping import Bool, Float
from torch import Tensor

from minillm.layers import fused, paths, recorder, sdpa


def read_and_report(
    q: Float[Tensor, "*batch Tq Dh"],
    k: Float[Tensor, "*batch Tk Dh"],
    v: Float[Tensor, "*batch Tk Dv"],
    mask: Bool[Tensor, "..."] | None = None,
    attn_bias: Float[Tensor, "..."] | None = None,
    scale: float | None = None,
    name: str = "attn_weights",
) -> Float[Tensor, "*batch Tq Dv"]:
    r"""`sdpa.sdpa` or its fused twin; the weights are made for the recorder only if someone listens for them.

    Args:
        q: queries, (..., Tq, Dh), float.
        k: keys, (..., Tk, Dh), float.
        v: values, (..., Tk, Dv), float.
        mask: broadcasts to (..., Tq, Tk), bool, True = may attend.
        attn_bias: broadcasts to (..., Tq, Tk), added to the scaled scores.
        scale: factor on the dot products; None means 1 / sqrt(Dh).
        name: under which the weights are reported.
    Returns: (..., Tq, Dv), dtype of q.
    Source: Vaswani et al. 2017, section 3.2.1.
    Lesson: 02.
    """
    if recorder.recording(name):
        recorder.report(name, sdpa.attention_weights(q, k, mask, attn_bias, scale))
    attend = fused.fused_sdpa if paths.use_fused() else sdpa.sdpa
    return attend(q, k, v, mask, attn_bias, scale)
