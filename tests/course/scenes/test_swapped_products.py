r"""Layers may be looked at and may multiply in another way, and are afterwards as they were."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minillm.config import Init, preset
from minillm.course.scenes.swapped_products import block_linears, layer_inputs, swapped_products
from minillm.model.gpt import GPT


@pytest.fixture(scope="module")
def model():
    config = preset("tiny", vocab_size=31, n_layers=2, init=Init(0.5, 0.2, "plain"))  # no zeros: blocks say something
    return GPT(config, torch.Generator().manual_seed(0)).eval()


@pytest.fixture(scope="module")
def token_ids():
    return torch.randint(31, (2, 7), generator=torch.Generator().manual_seed(1))


def test_every_linear_layer_of_the_blocks_and_not_the_head(model):
    found = block_linears(model)
    assert len(found) == sum(isinstance(part, nn.Linear) for part in model.modules()) - 1
    assert not any(part is model.lm_head for part in found.values())


def test_inputs_are_what_the_layers_read(model, token_ids):
    read = layer_inputs(model, token_ids)
    x = model.blocks[0].attn_norm(model.tok_emb(token_ids) + model.pos_emb(torch.arange(7)))
    assert read.keys() == block_linears(model).keys()
    assert torch.allclose(read["0.attn.q_proj"], x.flatten(0, 1), atol=1e-6)
    assert not model.blocks[0].attn.q_proj._forward_pre_hooks


def test_the_same_product_changes_nothing_and_another_one_does(model, token_ids):
    with torch.no_grad():
        want = model(token_ids)
        calls = []
        with swapped_products(model, lambda x, weight: calls.append(x.shape) or F.linear(x, weight)):
            same = model(token_ids)
        with swapped_products(model, lambda x, weight: 2 * F.linear(x, weight)):
            other = model(token_ids)
        after = model(token_ids)
    assert torch.allclose(same, want, atol=1e-5) and not torch.allclose(other, want, atol=1e-2)
    assert torch.equal(after, want)
    assert len(calls) == len(block_linears(model)) and all(len(shape) == 2 and shape[0] == 14 for shape in calls)


def test_an_error_inside_leaves_the_model_as_it_was(model, token_ids):
    def broken(x, weight):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), swapped_products(model, broken):
        model(token_ids)
    assert all("forward" not in vars(part) for part in block_linears(model).values())


def test_biases_are_refused():
    with_bias = GPT(preset("gpt2", vocab_size=31, n_layers=1, d_model=16, n_heads=2, n_kv_heads=2, head_dim=8,
                           max_seq_len=8))
    with pytest.raises(ValueError, match="bias"), swapped_products(with_bias, F.linear):
        pass
