r"""LoRA and QLoRA on the real model: a few steps, a file, the base as it was, and what it all weighs."""

import pytest
import torch

from minillm import tuning
from minillm.course.scenes import new_manners
from minillm.inference.quantization.convert import stored_bytes
from minillm.inference.quantization.nf4_linear import Nf4Linear
from minillm.pretrained import load
from minillm.pretrained.weights_wheel import COMMAND, find_wheel_file
from minillm.text.talks import example_batches
from minillm.training.loop import train
from minillm.training.recipe import Recipe

ASKED = new_manners.HELD_OUT[:2]


@pytest.fixture(scope="module")
def smollm2():
    r"""The model in float32, and its tokenizer; not to be changed."""
    if find_wheel_file() is None:
        pytest.skip(f"the weights of SmolLM2-135M are not installed: {COMMAND}")
    return load("smollm2", device="cpu")


def test_a_few_steps_change_the_manner_and_not_the_base(smollm2, tmp_path):
    base, tokenizer = smollm2
    token_ids = torch.tensor([tokenizer.encode("The capital of France is")])
    with torch.inference_mode():
        before = base(token_ids)
    generator = torch.Generator().manual_seed(0)
    tuned = tuning.lora(base, generator=generator)
    batches = example_batches(new_manners.captain_examples(tokenizer), 2, generator)
    train(tuned, batches, Recipe(learning_rate=5e-3, warmup_steps=1, dtype="fp32"), steps=4)
    assert new_manners.captain_nats(tuned, tokenizer, ASKED) < new_manners.captain_nats(base, tokenizer, ASKED) - 0.5
    tuning.save(tuned, tmp_path / "captain.safetensors")
    with torch.inference_mode():
        changed = tuned(token_ids)
        assert torch.equal(tuning.load(base, tmp_path / "captain.safetensors")(token_ids), changed)
        with tuning.active(tuned):
            assert torch.equal(tuned(token_ids), before)
        assert torch.equal(base(token_ids), before) and not torch.equal(changed, before)
        torch.testing.assert_close(tuning.merged(tuned)(token_ids), changed, atol=1e-2, rtol=1e-2)


def test_the_base_in_four_bits_weighs_a_third_and_is_nearly_the_base(smollm2):
    base, tokenizer = smollm2
    small = tuning.qlora(base)
    blocks = [module for module in small.modules() if isinstance(module, Nf4Linear)]
    n_weights = sum(layer.in_features * layer.out_features for layer in blocks)
    assert len(blocks) == 210 and n_weights == 106_168_320
    assert 4.126 < 8 * sum(map(stored_bytes, blocks)) / n_weights < 4.128  # bits a weight
    n_trained, _ = new_manners.trained_numbers(small)
    # codes, and the embedding and the norms in float32, and the factors
    assert 165e6 < stored_bytes(small) - 4 * n_trained < 170e6 and stored_bytes(base) > 538e6
    plain, rounded = (new_manners.captain_nats(each, tokenizer, ASKED) for each in (base, small))
    assert abs(rounded - plain) < 0.25 * plain  # 0.16 was measured
    token_ids = torch.tensor([tokenizer.encode("The capital of France is")])
    small(token_ids)[0, -1].logsumexp(0).backward()
    grads = [parameter.grad for parameter in small.parameters() if parameter.requires_grad]
    assert all(grad is not None and bool(grad.isfinite().all()) for grad in grads)
