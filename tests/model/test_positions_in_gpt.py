r"""Every way of telling positions, inside a whole model: cached = uncached, padded = alone, all of it learns."""

import random

import pytest
import torch

from minillm.config import (
    Alibi,
    DynamicNtk,
    Init,
    Learned,
    Llama3Scaling,
    LongRope,
    Mlp,
    ModelConfig,
    NoPosition,
    NtkAware,
    PositionInterpolation,
    Proportional,
    Recursive,
    Rope,
    Shaw,
    Sinusoidal,
    T5Bias,
    TransformerXL,
    Yarn,
)
from minillm.config.positions import POSITIONS
from minillm.config.scaling import SCALINGS
from minillm.layers import rope_scaling
from minillm.layers.paths import plain_path
from minillm.model.gpt import GPT

RELATIVE = (Alibi(), T5Bias(8, 12), Shaw(3), TransformerXL(), Rope(), Rope(100.0, 0.5), NoPosition())
SCALED = (
    PositionInterpolation(4.0), NtkAware(4.0), Yarn(4.0, 64), Yarn(4.0, 64, 8.0, 2.0, 1.3, False),
    Llama3Scaling(4.0, 1.0, 4.0, 64), Proportional(0.5, 2.0),
)  # fmt: skip
CHANGING = (DynamicNtk(2.0, 8), LongRope((1.0, 2.0, 3.0, 4.0), (2.0, 4.0, 6.0, 8.0), 8, 1.1))
CACHED = (*RELATIVE, Learned(), Sinusoidal(), Recursive(), *(Rope(scaling=scaling) for scaling in SCALED))


def fresh_model(position, seed, max_seq_len=40):
    config = ModelConfig(
        vocab_size=11, max_seq_len=max_seq_len, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8,
        ffn=Mlp(16), position=position, init=Init(0.5, 0.4, "plain"))
    return GPT(config, torch.Generator().manual_seed(seed)).eval()


def test_every_kind_is_tried_here():
    assert {type(position) for position in CACHED} == set(POSITIONS.values())
    assert {type(scaling) for scaling in (*SCALED, *CHANGING)} == set(SCALINGS.values())


@pytest.mark.parametrize("position", CACHED, ids=str)
def test_cached_is_uncached_and_padded_is_alone(position, fresh_seed):
    draw, model = random.Random(fresh_seed), fresh_model(position, fresh_seed)
    token_ids = torch.randint(0, 11, (2, 13), generator=torch.Generator().manual_seed(fresh_seed))
    n_padding = draw.randint(1, 5)
    real = torch.ones(2, 13, dtype=torch.bool)
    real[1, :n_padding] = False
    with torch.no_grad():
        whole, cache, pieces, start = model(token_ids, real), model.new_cache(2, 13), [], 0
        while start < 13:
            end = start + draw.randint(1, 13 - start)
            pieces.append(model(token_ids[:, start:end], real[:, :end], cache=cache))
            start = end
        alone = model(token_ids[1:, n_padding:])
        with plain_path():
            plain = model(token_ids, real)
    torch.testing.assert_close(torch.cat(pieces, dim=1)[real], whole[real], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(whole[1:, n_padding:], alone, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(plain[real], whole[real], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("position", [*CACHED, *(Rope(scaling=scaling) for scaling in CHANGING)], ids=str)
def test_order_counts_and_every_weight_learns(position, fresh_seed):
    model = fresh_model(position, fresh_seed)
    token_ids = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]])
    turned = torch.cat([token_ids[:, :-1].flip(1), token_ids[:, -1:]], dim=1)
    logits = model(token_ids)[0, -1]
    assert (isinstance(position, NoPosition)) or not torch.allclose(logits, model(turned)[0, -1], atol=1e-3)
    model(token_ids).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())


@pytest.mark.parametrize("position", CACHED, ids=str)
def test_relative_positions_do_not_care_where_a_text_begins(position, fresh_seed):
    model = fresh_model(position, fresh_seed)
    token_ids = torch.randint(0, 11, (1, 9), generator=torch.Generator().manual_seed(fresh_seed))
    with torch.no_grad():
        here, there = (model(token_ids, positions=torch.arange(9) + start) for start in (0, 23))
    same = torch.allclose(here, there, rtol=1e-3, atol=1e-3)
    assert same == (not isinstance(position, Learned | Sinusoidal | Recursive))


@pytest.mark.parametrize("scaling", CHANGING, ids=str)
def test_angles_that_change_with_the_length_refuse_a_cache(scaling, fresh_seed):
    model = fresh_model(Rope(scaling=scaling), fresh_seed)
    with pytest.raises(ValueError, match="cache"):
        model(torch.tensor([[1, 2]]), cache=model.new_cache(1, 8))
    token_ids = torch.randint(0, 11, (1, 20), generator=torch.Generator().manual_seed(fresh_seed))
    with torch.no_grad():
        short, long = model(token_ids[:, :8]), model(token_ids)
    assert not torch.allclose(short, long[:, :8], atol=1e-4), "the beginning must feel how long the text has become"


def test_dynamic_ntk_is_ntk_with_the_base_of_its_length(fresh_seed):
    token_ids = torch.randint(0, 11, (1, 20), generator=torch.Generator().manual_seed(fresh_seed))
    base = rope_scaling.dynamic_ntk_base(10000.0, 2.0, 8, 20, 8)
    with torch.no_grad():
        dynamic = fresh_model(Rope(scaling=DynamicNtk(2.0, 8)), fresh_seed)(token_ids)
        by_base = fresh_model(Rope(base=base), fresh_seed)(token_ids)
    torch.testing.assert_close(dynamic, by_base)
