r"""Configurations with a name."""

from dataclasses import replace
from typing import Any

from minillm.config.model_config import ModelConfig
from minillm.config.parts import AttentionOptions, Glu, Init, Mlp, Norm
from minillm.config.positions import Rope
from minillm.config.require import require


def _llama_like(**sizes: Any) -> dict[str, Any]:
    return dict(norm=Norm("rms", bias=False), position=Rope(), **sizes)


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": dict(  # its matrices start wider than GPT-2's: at 128 features 0.02 leaves attention blind for a long time
        vocab_size=128, max_seq_len=64, d_model=128, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=64,
        ffn=Mlp(512, "relu_squared"), norm=Norm("layer", bias=False), init=Init(0.1, 0.05, "zero")),
    "tiny-llama": _llama_like(  # as small, of LLaMA's parts: what it learns can be exported
        vocab_size=128, max_seq_len=64, d_model=128, n_layers=2, n_heads=2, n_kv_heads=1, head_dim=64,
        ffn=Glu(352), init=Init(0.1, 0.05, "zero")),
    "gpt2": dict(
        vocab_size=50257, max_seq_len=1024, d_model=768, n_layers=12, n_heads=12, n_kv_heads=12, head_dim=64,
        ffn=Mlp(3072, "gelu_tanh", bias=True), attention=AttentionOptions(qkv_bias=True, o_bias=True)),
    "gpt3": dict(
        vocab_size=50257, max_seq_len=2048, d_model=12288, n_layers=96, n_heads=96, n_kv_heads=96, head_dim=128,
        ffn=Mlp(49152, "gelu_tanh", bias=True), attention=AttentionOptions(qkv_bias=True, o_bias=True)),
    "llama-7b": _llama_like(
        vocab_size=32000, max_seq_len=2048, d_model=4096, n_layers=32, n_heads=32, n_kv_heads=32, head_dim=128,
        ffn=Glu(11008), tie_embeddings=False),
    "smollm2-135m": dict(_llama_like(
        vocab_size=49152, max_seq_len=8192, d_model=576, n_layers=30, n_heads=9, n_kv_heads=3, head_dim=64,
        ffn=Glu(1536)), position=Rope(base=100000.0)),
}


def preset(name: str, **changes: Any) -> ModelConfig:
    r"""A named configuration, with any field changed on the way.

    Args:
        name: one of `PRESETS`, e.g. `tiny` (the story writer), `gpt2`, `llama-7b`.
        changes: fields of `ModelConfig` to replace.
    Returns: a validated config.
    Raises:
        ValueError: if the name is unknown; the message lists the names.
    Source: GPT-2 and GPT-3 sizes: Radford et al. 2019, Brown et al. 2020, table 2.1 (GPT-3's sparse attention is left
        out); LLaMA: Touvron et al. 2023, table 2.
    Lesson: 07.
    """
    require(name in PRESETS, "name", name, f"use one of {sorted(PRESETS)}")
    return replace(ModelConfig(**PRESETS[name]), **changes)
