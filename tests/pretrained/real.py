r"""The real model in tests: where its file lies, and what transformers makes of it; skipped where it is not."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from minillm.pretrained.loading import load_model
from minillm.pretrained.weights_wheel import COMMAND, find_wheel_file


def smollm2_file() -> Path:
    r"""The GGUF file of SmolLM2-135M-Instruct; the test is skipped where it is not installed."""
    path = find_wheel_file()
    if path is None:
        pytest.skip(f"the weights of SmolLM2-135M are not installed: {COMMAND}")
    return path


@cache
def smollm2_model() -> Any:
    r"""Ours, in float32 on the CPU; not to be changed."""
    return load_model(smollm2_file(), device="cpu")


@cache
def smollm2_reference() -> Any:
    r"""What transformers reads from the same file, in float32; not to be changed."""
    pytest.importorskip("accelerate", reason="transformers reads GGUF only with accelerate")
    path = smollm2_file()
    return transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager").eval()
