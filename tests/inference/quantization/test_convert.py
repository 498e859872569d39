r"""Whole models in 8 and 4 bits: what is stored how, near the exact one, nothing of the old one touched."""

import copy

import pytest
import torch
from torch import nn

from minillm.config import (
    Alibi,
    AttentionOptions,
    Experts,
    Glu,
    Learned,
    Mla,
    Mlp,
    Norm,
    Rope,
    Sinusoidal,
    T5Bias,
    TransformerXL,
    preset,
)
from minillm.inference.caches.int8 import int8_caches
from minillm.inference.divergence import mean_kl
from minillm.inference.generate import generate
from minillm.inference.quantization.convert import is_quantized, quantize_model, stored_bytes
from minillm.inference.quantization.linears import Int4Linear, Int8Embedding, Int8Linear
from minillm.layers.paths import plain_path
from minillm.model.encoder_decoder import EncoderDecoder
from minillm.model.gpt import GPT
from minillm.model.masked_lm import MaskedLM

SIZES = dict(vocab_size=40, max_seq_len=24, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8)
KINDS = {
    "llama": dict(position=Rope(), norm=Norm(kind="rms"), ffn=Glu(64)),
    "gpt2": dict(position=Learned(), n_kv_heads=4, ffn=Mlp(64, bias=True),
                 attention=AttentionOptions(qkv_bias=True, o_bias=True)),
    "untied": dict(position=Alibi(), tie_embeddings=False),
    "odd widths": dict(position=Rope(), ffn=Glu(40)),
    "sinusoidal": dict(position=Sinusoidal()),
    "t5": dict(position=T5Bias()),
    "transformer-xl": dict(position=TransformerXL(), n_kv_heads=4),
    "experts": dict(position=Rope(), ffn=Experts(4, 2, 32)),
    "latent": dict(position=Rope(), attention=Mla(kv_rank=32, rope_dim=4), n_kv_heads=4),
}  # fmt: skip


def model_of(kind, seed):
    r"""A small model with weights as large as trained ones are."""
    model = GPT(preset("tiny", **{**SIZES, **KINDS[kind]}), torch.Generator().manual_seed(seed)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5)
    return model


def rounded(model, quantized):
    r"""The model in floats with the weights that the quantized one restores: what it must compute."""
    twin = copy.deepcopy(model)
    parts = dict(quantized.named_modules(remove_duplicate=False))
    with torch.no_grad():
        for name, module in twin.named_modules():
            if type(module) in (nn.Linear, nn.Embedding) and hasattr(parts[name], "weight"):
                module.weight.copy_(parts[name].weight)
    return twin


@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_it_computes_with_the_restored_weights(kind, weights, fresh_seed):
    if kind == "experts":
        fresh_seed = 0  # two experts that a router likes nearly alike would be exchanged by a rounding
    model = model_of(kind, fresh_seed)
    before = copy.deepcopy(model.state_dict())
    quantized = quantize_model(model, weights)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    token_ids = torch.randint(40, (2, 12), generator=torch.Generator().manual_seed(fresh_seed))
    with torch.no_grad(), plain_path():
        got, want, exact = (each(token_ids) for each in (quantized, rounded(model, quantized), model))
        cache = quantized.new_cache(2, 12)
        pieces = [quantized(token_ids[:, a:b], cache=cache) for a, b in ((0, 5), (5, 6), (6, 12))]
    torch.testing.assert_close(got, want, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(torch.cat(pieces, dim=1), want, atol=2e-4, rtol=1e-4)
    assert not torch.equal(want, exact), "the weights were not on the grid"


def test_what_is_stored_how(fresh_seed):
    for kind in KINDS:
        model = model_of(kind, fresh_seed)
        for weights in ("int8", "int4"):
            quantized = quantize_model(model, weights, torch.bfloat16)
            assert is_quantized(quantized) and not is_quantized(model) and not quantized.training
            parts = dict(quantized.named_modules(remove_duplicate=False))
            for name, module in model.named_modules():
                if type(module) is not nn.Linear:
                    continue
                wide = weights == "int8" or name == "lm_head" or module.in_features % 32
                kept = name.endswith("router")
                assert type(parts[name]) is (nn.Linear if kept else Int8Linear if wide else Int4Linear), name
            assert type(quantized.tok_emb) is Int8Embedding
            assert (quantized.tok_emb.table is quantized.lm_head) == model.config.tie_embeddings
            assert {parameter.dtype for parameter in quantized.parameters()} == {torch.bfloat16}
            assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
            shared = {each.data_ptr() for each in model.state_dict().values()}
            assert not shared & {each.data_ptr() for each in quantized.state_dict().values()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_activations_and_caches_are_of_the_dtype(dtype, fresh_seed):
    quantized = quantize_model(model_of("llama", fresh_seed), "int4", dtype)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert quantized(ids).dtype == dtype and quantized.hidden(ids).dtype == dtype
        assert quantized.new_cache(1, 4)[0].append(
            *torch.zeros(2, 1, 2, 1, 8, dtype=dtype), torch.zeros(1, dtype=torch.int64))[0].dtype == dtype
        assert quantized(ids, cache=int8_caches(quantized, 1, 4)).dtype == dtype
    assert generate(quantized, ids, 5).shape == (1, 8)


def test_bytes(fresh_seed):
    model = model_of("llama", fresh_seed)
    matrices = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 64)  # q, o; k, v; the FFN
    outputs = 2 * (2 * 32 + 2 * 16 + 2 * 64 + 32)
    norms, table = 5 * 32, 40 * 32
    assert stored_bytes(model) == 4 * (matrices + norms + table)  # the tied table once
    assert stored_bytes(quantize_model(model, "int8")) == matrices + 4 * outputs + 4 * norms + table + 4 * 40
    int4 = quantize_model(model, "int4", torch.bfloat16)
    assert stored_bytes(int4) == matrices / 2 + 2 * 2 * matrices / 32 + 2 * norms + table + 4 * 40


def test_near_the_model_in_floats():
    r"""Fixed seeds: round-to-nearest in 8 bits costs little, in 4 bits more."""
    token_ids = torch.arange(40).view(2, 20)
    for seed in range(3):
        model = model_of("llama", seed)
        with torch.no_grad():
            exact = model(token_ids)
            costs = [mean_kl(exact, quantize_model(model, weights)(token_ids)) for weights in ("int8", "int4")]
        assert 0 < costs[0] < 2e-3 and costs[0] < costs[1] < 0.1, costs


def test_what_cannot_be_quantized_is_refused(fresh_seed):
    model = model_of("llama", fresh_seed)
    with pytest.raises(ValueError, match="weights='int2'.*int8.*int4"):
        quantize_model(model, "int2")
    with pytest.raises(ValueError, match="quantized already"):
        quantize_model(quantize_model(model, "int8"), "int4")
    with pytest.raises(ValueError, match="LayerNorm.*no nn.Linear"):
        quantize_model(nn.LayerNorm(3))
    trained = quantize_model(model.train(), "int8")
    assert trained.training and model.training


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_models_with_an_encoder(weights, fresh_seed):
    config = preset("tiny", **{**SIZES, "n_kv_heads": 4})
    generator = torch.Generator().manual_seed(fresh_seed)
    both = EncoderDecoder(config, generator=generator).eval()
    quantized = quantize_model(both, weights)
    assert quantized.encoder.tok_emb is quantized.tok_emb and quantized.tok_emb.table is quantized.lm_head
    token_ids = torch.randint(40, (2, 7), generator=generator)
    masked = MaskedLM(config, generator=generator).eval()
    with torch.no_grad():
        for model, given in ((both, (token_ids, token_ids)), (masked, (token_ids,))):
            twin = quantize_model(model, weights)
            torch.testing.assert_close(twin(*given), rounded(model, twin)(*given), atol=2e-4, rtol=1e-4)
