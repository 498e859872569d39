r"""Which way is taken: the kernel where it is, the fast path where it is not, the model where neither knows it."""

import pytest
import torch

from minillm.config import Ends, Glu, preset
from minillm.inference.fast import build, choose
from minillm.inference.fast.choose import fastest
from minillm.inference.fast.decoder import FastDecoder
from minillm.inference.fast.kernel_decoder import KernelDecoder
from minillm.model.gpt import GPT
from tests.inference.fast.models import WEIGHTS, in_weights


@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_kernel_is_for_8_and_4_bits_where_it_can_be_built(weights, monkeypatch):
    model = in_weights(GPT(preset("tiny-llama", ffn=Glu(64), ends=Ends())).eval(), weights)
    made = []
    monkeypatch.setattr(choose.kernel_decoder, "KernelDecoder", lambda given: made.append(given) or "kernel")
    monkeypatch.setattr(build, "kernel_failure", lambda: None)
    if weights in ("int8", "int4"):
        assert fastest(model) == "kernel" and made == [model]
    else:
        assert type(fastest(model)) is FastDecoder
    assert type(fastest(model, kernel="none")) is FastDecoder
    monkeypatch.setattr(build, "kernel_failure", lambda: "there is no compiler")
    assert type(fastest(model)) is FastDecoder


def test_nobody_asks_for_a_compiler_who_has_no_use_for_it(monkeypatch):
    monkeypatch.setattr(build, "kernel_failure", lambda: pytest.fail("asked"))
    model = GPT(preset("tiny-llama")).eval()
    assert type(fastest(model)) is FastDecoder
    other = in_weights(GPT(preset("tiny")).eval(), "int8")
    assert fastest(other) is other


def test_what_is_chosen_is_called_like_the_model():
    model = in_weights(GPT(preset("tiny-llama", ffn=Glu(64))).eval(), "int8")
    ids = torch.arange(6)[None]
    chosen = fastest(model)
    assert type(chosen) in (KernelDecoder, FastDecoder)
    with torch.inference_mode():
        caches = [each.new_cache(1, 8) for each in (model, chosen)]
        for new in (ids, ids[:, :1]):
            want, got = (each(new, cache=cache) for each, cache in zip((model, chosen), caches, strict=True))
            assert got.shape == want.shape and float((got - want).abs().max()) <= 0.1 * float(want.abs().max())
