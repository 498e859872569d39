r"""SmolLM2 in 8 and 4 bits: how far from the model in float32 on real text, by each path; and where nothing is lost."""

import gc
import pydoc_data.topics
from functools import cache

import pytest
import torch

from minillm.inference.divergence import mean_kl
from minillm.inference.generate import generate
from minillm.inference.quantization import int4, rows
from minillm.inference.quantization.convert import quantize_model, stored_bytes
from minillm.inference.quantization.linears import Int4Linear, Int8Linear
from minillm.layers.paths import plain_path
from minillm.pretrained.loading import load_model, load_tokenizer
from tests.pretrained.real import smollm2_file, smollm2_model

pytestmark = pytest.mark.unchecked  # a hundred thousand tokens are read: checking types would take most of the time
MOST = {"int8": 0.03, "int4": 0.05}  # nats a token
N_TOKENS, STEP, PLAIN = 128, 16, 32


@pytest.fixture(scope="module", autouse=True)
def forget_the_models():
    r"""Give back the memory that they take."""
    yield
    for made in (smollm2_model, quantized, text_and_logits, tokenizer):
        made.cache_clear()
    gc.collect()


@cache
def quantized(weights):
    r"""As a user loads it, but for the tokenizer; not to be changed."""
    return load_model(smollm2_file(), weights, "cpu")


@cache
def tokenizer():
    r"""That of the file."""
    return load_tokenizer(smollm2_file())


@cache
def text_and_logits():
    r"""Real text, and what the model in float32 says of it."""
    text = "\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    ids = torch.tensor([tokenizer().encode(text[:4000])[:N_TOKENS]])
    assert ids.shape == (1, N_TOKENS)
    with torch.no_grad():
        return ids, smollm2_model()(ids)


@pytest.mark.parametrize("weights", list(MOST))
def test_divergence_on_real_text(weights):
    ids, exact = text_and_logits()
    model = quantized(weights)
    cached = model.new_cache(1, N_TOKENS)
    with torch.no_grad():
        whole = model(ids)
        pieces = [model(piece, cache=cached) for piece in ids.split(STEP, dim=1)]  # few rows: torch's kernels
        with plain_path():
            plain = model(ids[:, :PLAIN])
    costs = {"whole": mean_kl(exact, whole), "in pieces": mean_kl(exact, torch.cat(pieces, dim=1)),
             "plain": mean_kl(exact[:, :PLAIN], plain)}
    print(weights, {name: round(cost, 5) for name, cost in costs.items()})
    assert all(0 < cost <= MOST[weights] for cost in costs.values()), costs


def test_four_bits_in_groups_of_32_lose_nothing_on_this_file():
    r"""Its matrices were stored in such groups; what is lost on others is shown by groups of 64."""
    model = smollm2_model()
    twin = quantize_model(model, "int4")
    parts, n_matrices = dict(twin.named_modules()), 0
    for name, module in model.blocks.named_modules():
        if type(module) is torch.nn.Linear:
            part = parts[f"blocks.{name}"]
            assert type(part) is Int4Linear and part.scales.dtype == torch.float16
            assert torch.equal(part.weight, module.weight), name
            n_matrices += 1
    assert n_matrices == 30 * 7
    weight = model.blocks[0].attn.q_proj.weight.detach()
    wider = int4.restore_int4(*int4.int4_groups(weight, 64))
    assert 0.05 < float((wider - weight).norm() / weight.norm()) < 0.12
    table = model.tok_emb.weight.detach()[:4096].unflatten(1, (-1, 32))
    assert torch.equal(rows.restore_rows(*rows.quantize_rows(table)), table), "in 8 bits in groups of 32"


@pytest.mark.parametrize("weights, megabytes", [("int8", 135.4), ("int4", 94.9)])
def test_its_size_and_its_head(weights, megabytes):
    model = quantized(weights)
    assert stored_bytes(model) / 1e6 == pytest.approx(megabytes, abs=0.05)
    assert type(model.lm_head) is Int8Linear and model.tok_emb.table is model.lm_head
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("weights", list(MOST))
def test_it_writes_on(weights):
    ids = torch.tensor([tokenizer().encode("The capital of France is")])
    written = tokenizer().decode(generate(quantized(weights), ids, 2, temperature=0.0)[0].tolist())
    print(written)
    assert "Paris" in written
