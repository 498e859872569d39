r"""In which number format to compute, and what fp16 needs beside it.

Weights are always kept in float32 (the masters, see `flat`). What is chosen here is the format of the working copy
that forward and backward passes use: `fp32`, `bf16` (the range of float32 with 8 significant bits) or `fp16` (11
significant bits, but nothing between 6e-8 and zero, so that small gradients vanish unless the loss is scaled up).
"""

import math
import time

import torch
from torch import Tensor

from minillm.layers import paths

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
START_SCALE = 2.0**16


def resolve_dtype(name: str, device: torch.device) -> str:
    r"""The format to compute in, chosen by what the device can do if the name is `auto`.

    `auto` is bf16 on a GPU that has it and fp16 on one that has not; on a CPU bf16 if a short trial finds it faster
    (with AMX or bf16 instructions it is; without them it is slower than fp32); fp32 elsewhere, and on the plain path,
    where the functions of the lessons run.

    Args:
        name: `auto`, `fp32`, `bf16` or `fp16`.
        device: where the model is.
    Returns: `fp32`, `bf16` or `fp16`.
    Raises:
        ValueError: if the name is none of these.
    Source: Micikevicius et al. 2017, Mixed Precision Training; Kalamkar et al. 2019, A Study of BFLOAT16.
    Lesson: 08.
    """
    if name in DTYPES:
        return name
    if name != "auto":
        raise ValueError(f"dtype={name!r}: use one of {['auto', *DTYPES]}")
    if not paths.use_fused():
        return "fp32"
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if device.type == "cpu":
        return "bf16" if cpu_speedup(torch.bfloat16) > 1.2 else "fp32"
    return "fp32"


def cpu_speedup(dtype: torch.dtype) -> float:
    r"""How many times as fast as in float32 this CPU multiplies matrices of a small model's size.

    Args:
        dtype: the format in question.
    Returns: a ratio of the best times of a few trials, which take some milliseconds together.
    Lesson: 08.
    """
    seconds = {torch.float32: math.inf, dtype: math.inf}
    for trial in range(6):
        for each in seconds:
            x, weight = torch.ones(1024, 256, dtype=each), torch.ones(256, 256, dtype=each)
            start = time.perf_counter()
            x @ weight
            if trial > 0:  # the first one prepares the kernel
                seconds[each] = min(seconds[each], time.perf_counter() - start)
    return seconds[torch.float32] / seconds[dtype]


def loss_scale_step(
    scale: float, good_steps: int, overflow: bool, growth_interval: int = 1000
) -> tuple[float, int]:
    r"""The next loss scale: halved after an overflow, doubled after a long time without one.

    Args:
        scale: the factor that the loss was multiplied by.
        good_steps: steps without overflow since the scale last changed.
        overflow: whether this step's gradients held inf or nan.
        growth_interval: good steps until the scale is doubled.
    Returns: the scale for the next step, and its count of good steps.
    Source: Micikevicius et al. 2017, section 3.2; the automatic rule is that of the authors' later libraries.
    Lesson: 08.
    """
    if overflow:
        return scale / 2, 0
    if good_steps + 1 == growth_interval:
        return scale * 2, 0
    return scale, good_steps + 1


def all_finite(tensors: list[Tensor]) -> bool:
    r"""Whether no number is inf or nan.

    Args:
        tensors: float tensors.
    Returns: True if all are finite.
    Lesson: 08.
    """
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
