r"""The fast path of SmolLM2: the logits of its own forward, and the divergence that each type of weights may have."""

import copy
import pydoc_data.topics

import pytest
import torch

from minillm.inference.fast.decoder import FastDecoder
from minillm.inference.generate import generate
from minillm.inference.quantization.convert import quantize_model
from minillm.pretrained.loading import load_tokenizer
from tests.pretrained.real import smollm2_file, smollm2_model

N_TOKENS = 32


@pytest.fixture(scope="module")
def text_ids():
    r"""Real text, as ids: (1, N_TOKENS)."""
    ids = load_tokenizer(smollm2_file()).encode(pydoc_data.topics.topics["while"] + pydoc_data.topics.topics["if"])
    return torch.tensor([ids[:N_TOKENS]])


@pytest.fixture(scope="module")
def log_probs(text_ids):
    r"""What the model itself expects at each place, in float32."""
    with torch.inference_mode():
        return smollm2_model()(text_ids)[0].log_softmax(dim=-1)


def read_by_steps(fast, text_ids):
    with torch.inference_mode():
        cache = fast.new_cache(1, N_TOKENS)
        return torch.cat([fast(one, cache=cache)[0] for one in text_ids.split(1, dim=1)])


def test_float32_is_the_model(text_ids, log_probs):
    model = smollm2_model()
    fast = FastDecoder(model)
    logits = read_by_steps(fast, text_ids)
    assert float((logits.log_softmax(dim=-1) - log_probs).abs().max()) < 2e-3  # of numbers up to 30
    written = [generate(each, text_ids[:, :20], 10, temperature=0.0) for each in (model, fast)]
    assert torch.equal(*written)


@pytest.mark.parametrize(("weights", "most"), [("bf16", 0.01), ("int8", 0.03), ("int4", 0.05)])
def test_divergence_from_float32_on_real_text(weights, most, text_ids, log_probs):
    model = smollm2_model()
    if weights == "bf16":
        model = copy.deepcopy(model).bfloat16()
    else:
        model = quantize_model(model, weights, torch.bfloat16)
    got = read_by_steps(FastDecoder(model), text_ids).log_softmax(dim=-1)
    divergence = float((log_probs.exp() * (log_probs - got)).sum(dim=-1).mean())
    assert -1e-6 < divergence <= most
