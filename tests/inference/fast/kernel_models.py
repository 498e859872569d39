r"""Small models for the kernel, and what they should say."""

import pytest
import torch

from minillm.config import AttentionOptions, Ends, Glu
from minillm.inference.fast import build
from minillm.inference.fast.kernel_decoder import KernelDecoder
from minillm.model.gpt import GPT
from tests.inference.fast.models import in_weights, small_llama


def skip_without_kernel() -> None:
    r"""Skip a test, with the reason, where the kernel cannot be built."""
    if (reason := build.kernel_failure()) is not None:
        pytest.skip(f"no kernel here: {reason}")


def kernel_llama(seed: int, weights: str, **changes) -> GPT:
    r"""A quantized model of the kind that the kernel knows, with random sizes and parameters."""
    attention = AttentionOptions(scale=[None, 0.3][seed % 2])
    options = dict(ffn=Glu(32 * (1 + seed % 3)), attention=attention, ends=Ends([1.0, 3.0][seed % 2]))
    return in_weights(small_llama(seed, **options | changes), weights, torch.float32)


def steps(decoder: KernelDecoder, token_ids: torch.Tensor, n_prompt: int = 0) -> torch.Tensor:
    r"""Logits of a text read token by token, but for the first n_prompt, which go in at once."""
    with torch.inference_mode():
        cache = decoder.new_cache(1, token_ids.shape[1])
        chunks = [token_ids[:, :n_prompt]] if n_prompt else []
        chunks += list(token_ids[:, n_prompt:].split(1, dim=1))
        return torch.cat([decoder(chunk, cache=cache) for chunk in chunks], dim=1)


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    r"""The norm of the difference over the norm."""
    return float((found - wanted).norm() / wanted.norm())
