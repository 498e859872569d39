r"""The products of a step are counted as torch counts those that it makes, but for what a causal mask throws away."""

import random

import torch
from torch.utils.flop_counter import FlopCounterMode

from minillm.bench.training import ceiling
from minillm.bench.training.settings import SETTINGS, Setting
from minillm.layers import paths
from minillm.model.gpt import GPT
from minillm.training import accumulation


def test_it_is_what_torch_multiplies(fresh_seed):
    draw = random.Random(fresh_seed)
    n_heads = draw.randint(1, 3)
    setting = Setting(draw.randint(1, 3), n_heads, 4 * n_heads * draw.randint(1, 3), draw.randint(2, 9),
                      draw.randint(1, 4))
    vocab_size = draw.randint(5, 30)
    model = GPT(setting.config(vocab_size), torch.Generator().manual_seed(fresh_seed))
    token_ids = torch.randint(vocab_size, (setting.batch_size, setting.seq_len))
    with paths.plain_path(), FlopCounterMode(display=False) as counter:
        accumulation.batch_loss(model, token_ids, token_ids).backward()
    masked = setting.seq_len * (setting.seq_len - 1) // 2  # pairs of a row, computed and thrown away
    thrown_away = 12 * setting.n_layers * setting.batch_size * masked * setting.d_model
    assert ceiling.product_flops(setting, vocab_size) == counter.get_total_flops() - thrown_away


def test_the_settings_are_of_some_size():
    weights = {"small": 4 * 12 * 128**2, "larger": 6 * 12 * 384**2}
    for name, setting in SETTINGS.items():
        of_weights = 6 * weights[name] * setting.seq_len * setting.batch_size
        assert of_weights < ceiling.product_flops(setting, 20) < 1.3 * of_weights


def test_the_peak_is_a_number_for_each_format(monkeypatch):
    monkeypatch.setattr(ceiling, "SIZE", 64)
    peaks = ceiling.peak_gflops({"fp32", "bf16"})
    assert list(peaks) == ["bf16", "fp32"] and min(peaks.values()) > 0
