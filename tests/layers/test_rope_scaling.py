r"""RoPE scalings against Hugging Face's own functions, on random settings, and against what they promise."""

import math
import random

import pytest
import torch

from minillm.layers import rope_scaling
from minillm.layers.rope import rope_inv_freq

rope_utils = pytest.importorskip("transformers.modeling_rope_utils")
from transformers import LlamaConfig  # noqa: E402

ROUNDS = range(25)


def theirs(rope_type, settings, head_dim, base, max_len=512, seq_len=None, share=None):
    r"""(inv_freq, attention_factor) as Hugging Face computes them from a configuration."""
    parameters = {"rope_type": rope_type, "rope_theta": base, **settings}
    if share is not None:
        parameters["partial_rotary_factor"] = share
    config = LlamaConfig(hidden_size=4 * head_dim, num_attention_heads=4, head_dim=head_dim,
                         max_position_embeddings=max_len, rope_parameters=parameters)
    return rope_utils.ROPE_INIT_FUNCTIONS[rope_type](config, torch.device("cpu"), seq_len=seq_len)


def draw_setting(draw):
    r"""head_dim, base, factor, original_len."""
    return 2 * draw.randint(2, 64), draw.choice([1e2, 1e4, 5e5, 1e6]), draw.uniform(1.1, 40), draw.randint(300, 9000)


def assert_same(ours, want):
    torch.testing.assert_close(ours, want.float(), rtol=2e-5, atol=1e-9)


@pytest.fixture
def draw(fresh_seed):
    return random.Random(fresh_seed)


def test_every_type_that_the_library_knows_is_compared_here():
    known = {"linear", "dynamic", "yarn", "longrope", "llama3", "proportional"}
    assert set(rope_utils.ROPE_INIT_FUNCTIONS) == known, "a RoPE type that no test here knows"


def test_interpolation_ntk_and_dynamic(draw):
    for _ in ROUNDS:
        head_dim, base, factor, original_len = draw_setting(draw)
        want, amplitude = theirs("linear", {"factor": factor}, head_dim, base)
        assert_same(rope_scaling.interpolated_inv_freq(rope_inv_freq(head_dim, base), factor), want)
        assert amplitude == 1.0
        for seq_len in (draw.randint(1, original_len), original_len, draw.randint(original_len, 9 * original_len)):
            want, amplitude = theirs("dynamic", {"factor": factor}, head_dim, base, original_len, seq_len)
            grown = rope_scaling.dynamic_ntk_base(base, factor, head_dim, seq_len, original_len)
            assert_same(rope_inv_freq(head_dim, grown), want)
            assert amplitude == 1.0


def test_partial_rotary_is_a_smaller_head(draw):
    for _ in ROUNDS:
        head_dim, base, factor, original_len = draw_setting(draw)
        pairs = draw.randint(2, head_dim // 2)
        want, _ = theirs("linear", {"factor": factor}, head_dim, base, share=(2 * pairs + 0.1) / head_dim)
        assert_same(rope_scaling.interpolated_inv_freq(rope_inv_freq(2 * pairs, base), factor), want)


def test_yarn(draw):
    for _ in ROUNDS:
        head_dim, base, factor, original_len = draw_setting(draw)
        beta_slow = draw.uniform(0.2, 4)
        beta_fast, truncate = beta_slow + draw.uniform(0.1, 60), draw.random() < 0.5
        settings = {"factor": factor, "original_max_position_embeddings": original_len, "beta_fast": beta_fast,
                    "beta_slow": beta_slow, "truncate": truncate}
        want, amplitude = theirs("yarn", settings, head_dim, base, max_len=original_len)
        assert_same(
            rope_scaling.yarn_inv_freq(head_dim, base, factor, original_len, beta_fast, beta_slow, truncate), want)
        assert math.isclose(rope_scaling.yarn_amplitude(factor), amplitude)
        strength, strength_all = draw.uniform(0.1, 2), draw.uniform(0.1, 2)
        settings |= {"mscale": strength, "mscale_all_dim": strength_all}
        _, amplitude = theirs("yarn", settings, head_dim, base, max_len=original_len)
        ours = rope_scaling.yarn_amplitude(factor, strength) / rope_scaling.yarn_amplitude(factor, strength_all)
        assert math.isclose(ours, amplitude)
    assert rope_scaling.yarn_amplitude(0.5) == rope_scaling.yarn_amplitude(1.0) == 1.0


def test_yarn_with_the_usual_betas():
    settings = {"factor": 4.0, "original_max_position_embeddings": 2048}
    want, _ = theirs("yarn", settings, 128, 1e4, max_len=2048)
    got = rope_scaling.yarn_inv_freq(128, 1e4, 4.0, 2048)
    assert_same(got, want)
    plain = rope_inv_freq(128, 1e4)
    turns = 2048 * plain / (2 * math.pi)
    assert torch.equal(got[turns > 40], plain[turns > 40])
    torch.testing.assert_close(got[turns < 0.8], plain[turns < 0.8] / 4)


def test_llama3(draw):
    for _ in ROUNDS:
        head_dim, base, factor, original_len = draw_setting(draw)
        low = draw.uniform(0.5, 3)
        high = low + draw.uniform(0.1, 8)
        settings = {"factor": factor, "low_freq_factor": low, "high_freq_factor": high,
                    "original_max_position_embeddings": original_len}
        want, amplitude = theirs("llama3", settings, head_dim, base, max_len=original_len)
        plain = rope_inv_freq(head_dim, base)
        assert_same(rope_scaling.llama3_inv_freq(plain, factor, low, high, original_len), want)
        assert amplitude == 1.0


def test_longrope(draw):
    for _ in ROUNDS:
        head_dim, base, factor, original_len = draw_setting(draw)
        short, long = ([draw.uniform(1, 30) for _ in range(head_dim // 2)] for _ in range(2))
        settings = {"factor": factor, "short_factor": short, "long_factor": long,
                    "original_max_position_embeddings": original_len}
        for seq_len, factors in ((original_len, short), (original_len + 1, long)):
            want, amplitude = theirs("longrope", settings, head_dim, base, original_len, seq_len)
            assert_same(rope_scaling.longrope_inv_freq(head_dim, base, torch.tensor(factors)), want)
            assert math.isclose(rope_scaling.longrope_amplitude(factor, original_len), amplitude)
    assert rope_scaling.longrope_amplitude(1.0, 64) == 1.0


def test_proportional(draw):
    for _ in ROUNDS:
        head_dim, base, factor, _ = draw_setting(draw)
        share = draw.choice([0.0, 0.25, 0.5, 1.0, draw.random()])
        want, amplitude = theirs("proportional", {"factor": factor}, head_dim, base, share=share)
        assert_same(rope_scaling.proportional_inv_freq(head_dim, base, share, factor), want)
        assert amplitude == 1.0


def test_ntk_keeps_the_fastest_pair_and_slows_the_slowest_by_the_factor(draw):
    for _ in ROUNDS:
        head_dim, base, factor, original_len = draw_setting(draw)
        before = rope_inv_freq(head_dim, base).double()
        after = rope_inv_freq(head_dim, rope_scaling.ntk_base(base, factor, head_dim)).double()
        assert after[0] == before[0] == 1
        assert math.isclose(before[-1] / after[-1], factor, rel_tol=1e-4)
        dynamic = rope_scaling.dynamic_ntk_base(base, 1.0, head_dim, 7 * original_len, original_len)
        assert math.isclose(dynamic, rope_scaling.ntk_base(base, 7.0, head_dim), rel_tol=1e-9)


def test_bad_settings_are_refused_by_name():
    plain = rope_inv_freq(8)
    refused = [
        (lambda: rope_scaling.interpolated_inv_freq(plain, 0.0), "factor=0.0"),
        (lambda: rope_scaling.ntk_base(1e4, 2.0, 2), "head_dim=2"),
        (lambda: rope_scaling.ntk_base(1e4, -2.0, 8), "factor=-2.0"),
        (lambda: rope_scaling.dynamic_ntk_base(1e4, 0.0, 8, 100, 64), "factor=0.0"),
        (lambda: rope_scaling.yarn_inv_freq(8, 1e4, 2.0, 64, 1.0, 2.0), "beta_slow=2.0"),
        (lambda: rope_scaling.yarn_inv_freq(8, 1e4, 2.0, 6), "original_len=6"),
        (lambda: rope_scaling.llama3_inv_freq(plain, 2.0, 4.0, 4.0, 64), "high_freq_factor=4.0"),
        (lambda: rope_scaling.proportional_inv_freq(8, 1e4, 1.5), "share=1.5"),
    ]
    for call, message in refused:
        with pytest.raises(ValueError, match=message):
            call()
