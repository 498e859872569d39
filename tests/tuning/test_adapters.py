r"""Adapters: against loops and against hooks on the base, at the places that the papers name."""

import copy

import pytest
import torch

from minillm import tuning
from minillm.config import Experts, Glu, preset
from minillm.inference.generate import generate
from minillm.model.gpt import GPT
from minillm.tuning import adapters
from minillm.tuning.adapters import Bottleneck
from tests.inference.caches.models import CONFIGS, model_of
from tests.tuning.prompting import EXACT, ids_of, require_frozen_base, require_pieces_equal_whole

METHODS = {"serial": tuning.houlsby_adapters, "parallel": tuning.parallel_adapters}
SHAPES = {"vocab_size": 11, "d_model": 16, "n_heads": 2, "n_kv_heads": 2, "head_dim": 8}


def filled(model: torch.nn.Module, generator: torch.Generator) -> torch.nn.Module:
    r"""Adapters that do something."""
    for module in model.modules():
        if isinstance(module, Bottleneck):
            for parameter in module.parameters():
                parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def test_a_bottleneck_is_two_matrices_with_a_bend_between(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    d_model, width = torch.randint(1, 9, (2,), generator=generator).tolist()
    x = torch.randn(2, 3, d_model, generator=generator, dtype=torch.float64)
    down, up = (torch.randn(shape, generator=generator).double() for shape in ((width, d_model), (d_model, width)))
    down_bias, up_bias = (torch.randn(n, generator=generator).double() for n in (width, d_model))
    biased = adapters.bottleneck(x, down, up, down_bias, up_bias, "relu")
    plain = adapters.bottleneck(x, down, up, activation="relu")
    for row, token in torch.cartesian_prod(torch.arange(2), torch.arange(3)).tolist():
        for out, add in ((biased, 1), (plain, 0)):
            hidden = [max(0.0, sum(float(a * b) for a, b in zip(x[row, token], down[i], strict=True))
                          + add * float(down_bias[i])) for i in range(width)]
            want = [sum(float(up[j, i]) * hidden[i] for i in range(width)) + add * float(up_bias[j])
                    for j in range(d_model)]
            torch.testing.assert_close(out[row, token], torch.tensor(want, dtype=torch.float64), **EXACT)


def test_an_adapter_has_as_many_numbers_as_the_formula_says(fresh_seed):
    d_model, width = torch.randint(1, 60, (2,), generator=torch.Generator().manual_seed(fresh_seed)).tolist()
    for sizes in ((d_model, width), (768, 64)):
        n_numbers = sum(each.numel() for each in Bottleneck(*sizes, "gelu").parameters())
        assert n_numbers == 2 * sizes[0] * sizes[1] + sizes[0] + sizes[1]
    assert n_numbers == 99_136  # the example of lesson 13


@pytest.mark.parametrize("residual", ["pre", "post", "sandwich", "parallel", "deepnorm"])
@pytest.mark.parametrize("method", METHODS)
def test_fresh_adapters_are_the_base(fresh_seed, residual, method):
    generator = torch.Generator().manual_seed(fresh_seed)
    for ffn in (Glu(24), Experts(n_experts=3, top_k=2, d_ff=24)):
        model = GPT(preset("tiny-llama", **SHAPES, ffn=ffn, residual=residual), generator).eval()
        tuned, ids = METHODS[method](model, 4, generator=generator), ids_of(generator, 2, 9)
        assert torch.equal(tuned(ids), model(ids))
        assert not torch.equal(filled(tuned, generator)(ids), model(ids))


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("method", METHODS)
def test_adapters_stand_where_the_papers_put_them(fresh_seed, kind, method):
    generator, model = torch.Generator().manual_seed(fresh_seed), model_of(kind)
    tuned = filled(METHODS[method](model, 3, generator=generator), generator)
    found = [module for module in tuned.modules() if isinstance(module, Bottleneck)]
    hooked = copy.deepcopy(model)
    if method == "serial":  # behind attention and behind the FFN
        parts = [part for block in hooked.blocks for part in (block.attn, block.ffn)]
        for part, adapter in zip(parts, found, strict=True):
            part.register_forward_hook(lambda part, given, out, adapter=adapter: out + adapter(out))
    else:  # beside the FFN
        for block, adapter in zip(hooked.blocks, found, strict=True):
            block.ffn.register_forward_hook(lambda part, given, out, adapter=adapter: out + 4.0 * adapter(given[0]))
    ids = ids_of(generator, 2, 9)
    torch.testing.assert_close(tuned(ids), hooked(ids), **EXACT)
    require_pieces_equal_whole(tuned, generator)
    mask = torch.tensor([[False] * 4 + [True] * 5, [True] * 9])
    written = generate(tuned, ids, 5, temperature=0.0, padding_mask=mask)
    assert torch.equal(written[0, 4:], generate(tuned, ids[:1, 4:], 5, temperature=0.0)[0])


@pytest.mark.parametrize("method", METHODS)
def test_only_adapters_are_trained(fresh_seed, method):
    generator, model = torch.Generator().manual_seed(fresh_seed), model_of("GQA")
    tuned = filled(METHODS[method](model, 3, activation="gelu", generator=generator), generator)  # no unit is dead
    require_frozen_base(tuned, model, generator)
    again = METHODS[method](model, 3, generator=torch.Generator().manual_seed(1))
    same = METHODS[method](model, 3, generator=torch.Generator().manual_seed(1))
    pairs = zip(again.parameters(), same.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_bad_arguments_are_named():
    model = model_of("GQA")
    for method in METHODS.values():
        for arguments, told in (({"width": 0}, "width=0"), ({"activation": "bend"}, "activation='bend'")):
            with pytest.raises(ValueError, match=told):
                method(model, **arguments)
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="scale"):
            tuning.parallel_adapters(model, scale=scale)
