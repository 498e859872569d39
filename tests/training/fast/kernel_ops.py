r"""What the tests of the training kernel share: the kernel in its versions, and the paired layout read back."""

import pytest
import torch

from minillm.native.build import KernelUnavailable
from minillm.training.fast import build
from minillm.training.fast.ops import Ops

VERSIONS = {"instructions for bf16": True, "any processor": False}


def ops_of(fast: bool, n_threads: int = 1) -> Ops:
    r"""The kernel, or a skipped test that says why there is none."""
    try:
        library = build.load_training_kernel()
    except KernelUnavailable as error:
        pytest.skip(f"no kernel: {error}")
    if fast and library.kernel_level() == build.PORTABLE:
        pytest.skip("this processor has no instructions for bf16")
    return Ops(library, fast, n_threads)


def unpaired(x: torch.Tensor) -> torch.Tensor:
    r"""(N / 32, M / 2, 32, 2) -> (M, N)."""
    return x.permute(1, 3, 0, 2).reshape(2 * x.shape[1], -1)


def whole_numbers(generator: torch.Generator, *shape: int) -> torch.Tensor:
    r"""From -2 to 2, in bf16: sums of their products are exact in float32."""
    return torch.randint(-2, 3, shape, generator=generator).bfloat16()


def random_bf16(generator: torch.Generator, *shape: int) -> torch.Tensor:
    r"""Normal numbers, rounded to bf16."""
    return torch.randn(shape, generator=generator).bfloat16()
