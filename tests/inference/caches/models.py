r"""Tiny models of every kind of attention, in float64 and with weights large enough that a mistake shows."""

from dataclasses import replace
from functools import cache

import torch

from minillm.config import Alibi, AttentionOptions, Init, Learned, Mla, Mlp, ModelConfig, NoPosition, Rope, T5Bias
from minillm.model.gpt import GPT

MHA = ModelConfig(
    vocab_size=11, max_seq_len=40, d_model=16, n_layers=2, n_heads=4, n_kv_heads=4, head_dim=6, ffn=Mlp(16),
    position=Rope(), init=Init(0.5, 0.4, "plain"))
CONFIGS = {
    "MHA": MHA,
    "GQA": replace(MHA, n_kv_heads=2),
    "MQA": replace(MHA, n_kv_heads=1),
    "MLA": replace(MHA, attention=Mla(kv_rank=5, rope_dim=4)),
    "GQA, learned positions": replace(MHA, n_kv_heads=2, position=Learned()),
    "GQA, ALiBi": replace(MHA, n_kv_heads=2, position=Alibi()),
    "MHA, T5 bias": replace(MHA, position=T5Bias(8, 12)),
    "MHA, no positions": replace(MHA, position=NoPosition()),
    "window": replace(MHA, attention=AttentionOptions(window=3)),
    "window of 1": replace(MHA, attention=AttentionOptions(window=1)),
    "GQA, window, ALiBi": replace(MHA, n_kv_heads=2, position=Alibi(), attention=AttentionOptions(window=4)),
    "a window in one layer": replace(MHA, n_kv_heads=2, attention=AttentionOptions(window=(4, None))),
}
WINDOWED = [kind for kind, config in CONFIGS.items() if getattr(config.attention, "window", None)]


@cache
def model_of(kind: str) -> GPT:
    r"""The model of that kind, the same at each call."""
    return GPT(CONFIGS[kind], torch.Generator().manual_seed(len(kind))).double().eval()


def model_on(device: str, kind: str) -> GPT:
    r"""The same model, made anew on a device."""
    with torch.device(device):
        model = GPT(CONFIGS[kind]).double().eval()
    model.load_state_dict(model_of(kind).state_dict())
    return model


def drawn_ids(seed: int, batch_size: int, seq_len: int) -> torch.Tensor:
    r"""Random token ids."""
    return torch.randint(0, 11, (batch_size, seq_len), generator=torch.Generator().manual_seed(seed))
