r"""Small LLaMA-shaped models with random sizes for the fast path, in every type of weights."""

import random
from copy import deepcopy
from typing import Any

import torch

from minillm.config import AttentionOptions, Ends, Glu, ModelConfig, Norm, PositionInterpolation, Rope, Yarn
from minillm.inference.quantization.convert import quantize_model
from minillm.model.gpt import GPT

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
WEIGHTS = (*DTYPES, "int8", "int4")


def small_llama(seed: int, **changes: Any) -> GPT:
    r"""Random sizes, choices and parameters; widths in steps of 32, which packed kernels want; in eval mode."""
    draw = random.Random(seed)
    n_kv_heads = draw.randint(1, 3)
    options = dict(
        vocab_size=draw.randint(20, 90), max_seq_len=40, d_model=32 * draw.randint(1, 3), n_layers=draw.randint(1, 3),
        n_heads=n_kv_heads * draw.randint(1, 3), n_kv_heads=n_kv_heads, head_dim=draw.choice([8, 16, 32]),
        ffn=Glu(32 * draw.randint(1, 3), draw.choice(["silu", "gelu", "relu", "identity"]), bias=draw.random() < 0.3),
        position=Rope(draw.choice([100.0, 1e4]), draw.choice([1.0, 0.5]), draw.choice(
            [None, PositionInterpolation(2.0), Yarn(4.0, 16)])),
        norm=Norm("rms", draw.choice([1e-6, 1e-2]), bias=False),
        attention=AttentionOptions(draw.random() < 0.5, draw.random() < 0.5, scale=draw.choice([None, 0.3])),
        ends=Ends(draw.choice([1.0, 3.0]), head_bias=draw.random() < 0.3, logit_scale=draw.choice([1.0, 0.5])),
        tie_embeddings=draw.random() < 0.5)
    generator = torch.Generator().manual_seed(seed)
    model = GPT(ModelConfig(**options | changes), generator).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                parameter += 0.2 * noise
            else:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
    return model


def in_weights(model: GPT, weights: str, dtype: torch.dtype = torch.bfloat16) -> GPT:
    r"""A copy of the model in that type of weights; dtype is that of activations beside quantized ones."""
    return deepcopy(model).to(DTYPES[weights]) if weights in DTYPES else quantize_model(model, weights, dtype)
