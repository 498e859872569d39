r"""Which of the ways to run a model writes fastest."""

from typing import Any

from minillm.inference.fast import build, kernel_decoder
from minillm.inference.fast.decoder import FastDecoder
from minillm.inference.fast.shape import slow_part

KERNELS = ("auto", "none")


def fastest(model: Any, kernel: str = "auto") -> Any:
    r"""A model in the form that decodes fastest here.

    Args:
        model: a trained model in eval mode.
        kernel: "auto" = our own kernel where it knows the model and can be built, which takes a while the first time;
            "none" = plain PyTorch.
    Returns: a `KernelDecoder` or a `FastDecoder`; the model itself where it is none of those that they know. Called
        and cached like a GPT.
    Raises:
        ValueError: if `kernel` is neither.
    Lesson: 11.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel={kernel!r}: use one of {[*KERNELS]}")
    if kernel == "auto" and kernel_decoder.kernel_refusal(model) is None and build.kernel_failure() is None:
        return kernel_decoder.KernelDecoder(model)
    return model if slow_part(model) is not None else FastDecoder(model)
