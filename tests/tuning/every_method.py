r"""All methods with settings for a small model, and stacks of them."""

import torch
from torch import nn

from minillm.config import Glu, preset
from minillm.model.gpt import GPT
from minillm.tuning.methods import METHODS

VOCAB = 23
SETTINGS = {
    "lora": {"rank": 2, "dropout": 0.1},
    "dora": {"rank": 2, "rank_stabilized": True},
    "qlora": {"rank": 2, "group_size": 16},
    "houlsby_adapters": {"width": 3},
    "parallel_adapters": {"width": 3, "scale": 2.0},
    "prompt_tuning": {"length": 3},
    "p_tuning": {"template": [2, 1], "gap": 3, "encoder": "lstm"},
    "prefix_tuning": {"length": 3, "encoder_width": 8},
    "p_tuning_v2": {"length": 3},
}
STACKS = [*([name] for name in SETTINGS), ["lora", "prefix_tuning"], ["p_tuning_v2", "dora"],
          ["houlsby_adapters", "lora", "p_tuning"], ["qlora", "prompt_tuning"], ["prefix_tuning", "parallel_adapters"]]


def small_base(seed: int) -> GPT:
    r"""A LLaMA of two blocks, every matrix at random."""
    config = preset("tiny-llama", vocab_size=VOCAB, max_seq_len=40, d_model=16, n_heads=4, n_kv_heads=2, head_dim=8,
                    ffn=Glu(24))
    generator = torch.Generator().manual_seed(seed)
    model = GPT(config, generator).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[1] ** -0.5)
    return model


def tuned_by(model: nn.Module, names: list[str]) -> nn.Module:
    r"""One method after the other."""
    for name in names:
        model = METHODS[name](model, **SETTINGS[name])
    return model
