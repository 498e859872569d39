r"""The roofline: how long a computation must take at least, on a machine of which two numbers are known."""

import time
from collections.abc import Callable

import torch


def roofline_time(
    flops: int | float, n_bytes: int | float, peak_flops: int | float, bandwidth: int | float
) -> float:
    r"""The least time for so much computing and so much memory traffic.

    Computing and fetching go on at once, so the slower of the two decides.

    Args:
        flops: floating-point operations; a multiplication and an addition are two.
        n_bytes: that must be read or written.
        peak_flops: operations a second that the machine can do.
        bandwidth: bytes a second that its memory can deliver.
    Returns: seconds.
    Raises:
        ValueError: if flops or n_bytes is negative, or peak_flops or bandwidth not above 0.
    Source: Williams et al. 2009, Roofline: An Insightful Visual Performance Model for Multicore Architectures; there as
        attainable operations a second, min(peak, bandwidth * intensity).
    Lesson: 11.
    """
    for name, value in {"flops": flops, "n_bytes": n_bytes}.items():
        if value < 0:
            raise ValueError(f"{name}={value} is negative; use 0 or more")
    for name, value in {"peak_flops": peak_flops, "bandwidth": bandwidth}.items():
        if value <= 0:
            raise ValueError(f"{name}={value}: a machine does more than nothing; use a number above 0")
    return max(flops / peak_flops, n_bytes / bandwidth)


def ridge_point(peak_flops: int | float, bandwidth: int | float) -> float:
    r"""Operations a byte from which on computing, and no longer the memory, is the limit.

    Args:
        peak_flops: operations a second.
        bandwidth: bytes a second.
    Returns: operations a byte.
    Source: Williams et al. 2009.
    Lesson: 11.
    """
    return peak_flops / bandwidth


def linear_flops(n_tokens: int, d_in: int, d_out: int) -> int:
    r"""Operations of a linear layer.

    Args:
        n_tokens: rows of x.
        d_in: C.
        d_out: R.
    Returns: 2 * n_tokens * d_in * d_out.
    Lesson: 11.
    """
    return 2 * n_tokens * d_in * d_out


def linear_bytes(
    n_tokens: int, d_in: int, d_out: int, weight_bits: int | float = 16, activation_bits: int | float = 16
) -> float:
    r"""Bytes that a linear layer moves: its weights once, its input and its output.

    Args:
        n_tokens: rows of x.
        d_in: C.
        d_out: R.
        weight_bits: of a weight, its share of scales included.
        activation_bits: of a number of input or output.
    Returns: bytes.
    Lesson: 11.
    """
    return (d_in * d_out * weight_bits + n_tokens * (d_in + d_out) * activation_bits) / 8


def decode_bound(model_bytes: int | float, bandwidth: int | float) -> float:
    r"""Tokens a second that one text cannot exceed: each token reads all weights once.

    Args:
        model_bytes: that a token reads (`quantization.convert.stored_bytes`); the cache's may be added.
        bandwidth: bytes a second.
    Returns: tokens a second.
    Raises:
        ValueError: if a number is not above 0.
    Source: Pope et al. 2022, Efficiently Scaling Transformer Inference, section 2: memory time of decoding.
    Lesson: 11.
    """
    if model_bytes <= 0 or bandwidth <= 0:
        raise ValueError(f"model_bytes={model_bytes}, bandwidth={bandwidth}: use numbers above 0")
    return bandwidth / model_bytes


def measure_bandwidth(n_bytes: int = 2**28, rounds: int = 5, device: str | torch.device = "cpu") -> float:
    r"""Measure how fast this machine reads memory: the largest of several numbers of an array larger than any cache.

    Args:
        n_bytes: of the array.
        rounds: readings, of which the fastest counts.
        device: where.
    Returns: bytes a second, with torch's present number of threads.
    Raises:
        ValueError: if n_bytes is less than 4, or rounds less than 1.
    Lesson: 11.
    """
    if n_bytes < 4:
        raise ValueError(f"n_bytes={n_bytes}: use at least 4")
    array = torch.ones(n_bytes // 4, dtype=torch.float32, device=device)
    return 4 * len(array) / least_seconds(lambda: array.sum(), rounds)


def measure_matmul(
    size: int = 1024, dtype: torch.dtype = torch.float32, rounds: int = 5, device: str | torch.device = "cpu"
) -> float:
    r"""Measure how fast this machine multiplies matrices.

    Args:
        size: of the square matrices.
        dtype: of their numbers.
        rounds: products, of which the fastest counts.
        device: where.
    Returns: operations a second, with torch's present number of threads.
    Raises:
        ValueError: if size or rounds is less than 1.
    Lesson: 11.
    """
    if size < 1:
        raise ValueError(f"size={size}: use at least 1")
    a = torch.ones(size, size, device=device).div(size).to(dtype)
    return linear_flops(size, size, size) / least_seconds(lambda: a @ a, rounds)


def least_seconds(work: Callable[[], object], rounds: int = 5) -> float:
    r"""The shortest of several runs, after one that warms up: other work on the machine only ever adds.

    Args:
        work: a function without arguments; if it gives a tensor of a GPU, its end is waited for.
        rounds: runs that are measured.
    Returns: seconds.
    Raises:
        ValueError: if rounds is less than 1.
    Lesson: 11.
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds}: use at least 1")

    def once() -> float:
        start = time.perf_counter()
        result = work()
        if isinstance(result, torch.Tensor) and result.device.type == "cuda":
            torch.cuda.synchronize(result.device)
        return time.perf_counter() - start

    once()
    return min(once() for _ in range(rounds))
