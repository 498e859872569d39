r"""Which of the ways to run a model writes fastest."""

from typing import Any

from minillm.inference.fast.decoder import FastDecoder
from minillm.inference.fast.shape import slow_part


def fastest(model: Any, kernel: str = "auto") -> Any:
    r"""A model in the form that decodes fastest here.

    Args:
        model: a trained model in eval mode.
        kernel: "auto" = our own kernel where it can be built and knows the model; "none" = plain PyTorch.
    Returns: a `FastDecoder`, or the model itself where it is none of those that the fast path knows; called and
        cached like a GPT.
    Raises:
        ValueError: if `kernel` is neither.
    Lesson: 11.
    """
    if kernel not in ("auto", "none"):
        raise ValueError(f"kernel={kernel!r}: use 'auto' or 'none'")
    return model if slow_part(model) is not None else FastDecoder(model)
