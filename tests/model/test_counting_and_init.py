r"""Counts against built models and published totals; fresh weights against their rule."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from minillm.config import Alibi, AttentionOptions, Glu, Learned, Mlp, ModelConfig, Norm, Rope, preset
from minillm.layers import paths
from minillm.model.counting import block_parameters, count_parameters, flops_per_token, n_trainable
from minillm.model.gpt import GPT
from minillm.model.init import init_weights

configs = st.builds(
    ModelConfig, vocab_size=st.integers(1, 40), max_seq_len=st.just(9), d_model=st.sampled_from([4, 6]),
    n_layers=st.integers(1, 3), n_heads=st.just(4), n_kv_heads=st.sampled_from([1, 2, 4]), head_dim=st.just(2),
    ffn=st.builds(Mlp, st.integers(1, 9), bias=st.booleans()) | st.builds(Glu, st.integers(1, 9), bias=st.booleans()),
    position=st.sampled_from([Learned(), Rope(), Alibi()]),
    norm=st.builds(Norm, st.sampled_from(["layer", "rms"]), bias=st.booleans()),
    residual=st.sampled_from(["pre", "post"]), tie_embeddings=st.booleans(),
    attention=st.builds(AttentionOptions, st.booleans(), st.booleans()))


@given(configs)
def test_counts_equal_the_built_model(config):
    model, counts = GPT(config), count_parameters(config)
    assert counts["total"] == sum(p.numel() for p in model.parameters())
    assert counts["attention"] == sum(p.numel() for b in model.blocks for p in b.attn.parameters())
    assert counts["ffn"] == sum(p.numel() for b in model.blocks for p in b.ffn.parameters())
    assert counts["norm"] == sum(p.numel() for name, p in model.named_parameters() if "norm" in name)
    assert ModelConfig.from_dict(config.to_dict()) == config


def test_what_is_trained_is_what_is_not_frozen(fresh_seed):
    model, whole = GPT(preset("tiny")), count_parameters(preset("tiny"))  # its head is its embedding
    assert n_trainable(model) == whole["total"]
    model.tok_emb.requires_grad_(False)
    assert n_trainable(model) == whole["total"] - whole["embedding"]
    chosen = fresh_seed % len(model.blocks)
    model.requires_grad_(False).blocks[chosen].requires_grad_(True)
    assert n_trainable(model) == sum(block_parameters(preset("tiny")).values())
    assert n_trainable(model.requires_grad_(False)) == 0


def test_published_totals():
    assert count_parameters(preset("llama-7b"))["total"] == 6_738_415_616
    assert count_parameters(preset("gpt2"))["total"] == 124_439_808
    gpt3 = count_parameters(preset("gpt3"))["total"]
    assert abs(gpt3 / 175e9 - 1) < 0.01


def test_flops_equal_torchs_counter():
    for config in (preset("tiny"), preset("tiny", ffn=Glu(64, bias=True), n_kv_heads=1,
                                          attention=AttentionOptions(qkv_bias=True, o_bias=True))):
        model, seq_len = GPT(config), 12
        counter = FlopCounterMode(display=False)
        with counter, paths.plain_path():
            model(torch.zeros(1, seq_len, dtype=torch.int64))
        # Uncached, every query is multiplied with every key before the mask hides half of them.
        assert counter.get_total_flops() == seq_len * flops_per_token(config, kv_len=seq_len)["total"]


def test_init_follows_its_rule(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)

    def draw(name, **kwargs):
        return init_weights(name, (400, 300), 8, embedding_std=0.5, linear_std=0.2, generator=generator, **kwargs)

    assert (draw("blocks.0.attn_norm.weight") == 1).all() and (draw("blocks.0.ffn.up_proj.bias") == 0).all()
    assert (draw("final_norm.bias") == 0).all()
    for name, std in (("tok_emb.weight", 0.5), ("blocks.1.attn.q_proj.weight", 0.2), ("lm_head.weight", 0.2),
                      ("blocks.1.attn.o_proj.weight", 0.05), ("blocks.1.ffn.down_proj.weight", 0.05)):
        w = draw(name)
        assert float(w.std()) == pytest.approx(std, rel=0.02) and abs(float(w.mean())) < std / 50
    assert (draw("blocks.1.ffn.down_proj.weight", residual="zero") == 0).all()
    assert float(draw("blocks.1.ffn.down_proj.weight", residual="plain").std()) == pytest.approx(0.2, rel=0.02)
    with pytest.raises(ValueError, match="residual='small'"):
        draw("x", residual="small")


def test_a_fresh_model_knows_nothing(fresh_seed):
    model = GPT(preset("gpt2", vocab_size=97, d_model=64, n_layers=2), torch.Generator().manual_seed(fresh_seed))
    probs = model(torch.arange(97)[None]).detach().softmax(-1)
    entropy = float(-(probs * probs.log()).sum(-1).mean())
    assert math.log(97) - 0.1 < entropy <= math.log(97) + 1e-4
