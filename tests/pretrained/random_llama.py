r"""Small LLaMA-shaped models of ours with random weights, and what transformers makes of their exports."""

import random
from pathlib import Path
from typing import Any

import torch
import transformers

from minillm.config import AttentionOptions, Glu, ModelConfig, Norm, Rope
from minillm.model.gpt import GPT


def random_llama(seed: int, **changes: Any) -> GPT:
    r"""A model with random sizes and every parameter drawn at random, norms and biases too; in eval mode."""
    draw = random.Random(seed)
    n_kv_heads = draw.randint(1, 3)
    n_heads = n_kv_heads * draw.randint(1, 3)
    sizes = dict(
        vocab_size=draw.randint(20, 60), max_seq_len=48, d_model=n_heads * draw.randint(-(-16 // n_heads), 20),
        n_layers=draw.randint(1, 3), n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=2 * draw.randint(2, 6),
        ffn=Glu(draw.randint(5, 40)), position=Rope(base=draw.choice([100.0, 1e4, 1e5])), attention=AttentionOptions(),
        norm=Norm("rms", draw.choice([1e-6, 1e-3]), bias=False), tie_embeddings=draw.random() < 0.5)
    generator = torch.Generator().manual_seed(seed)
    model = GPT(ModelConfig(**sizes | changes), generator).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                parameter += 0.3 * noise
            else:
                parameter.copy_(1.2 * noise * parameter.shape[-1] ** -0.5)
    return model


def loaded_by_transformers(directory: Path, gguf_file: str | None = None) -> Any:
    r"""What transformers makes of an export: a float32 model whose texts end only where they are told to."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(directory), gguf_file=gguf_file, dtype=torch.float32, attn_implementation="eager").eval()
    if gguf_file is not None:  # the file cannot say "no end token", and the class would think of 2
        model.generation_config.eos_token_id = None
    return model


def greedy(hf_model: Any, token_ids: torch.Tensor, n_new: int) -> torch.Tensor:
    r"""Prompt and greedy continuation, by transformers."""
    return hf_model.generate(
        token_ids, attention_mask=torch.ones_like(token_ids), max_new_tokens=n_new, do_sample=False, pad_token_id=0)
