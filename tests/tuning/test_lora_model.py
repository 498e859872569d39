r"""LoRA for whole models, against algebra: what is added, what is shared, switched off, added up, and merged."""

import pytest
import torch
from torch import nn

from minillm import tuning
from minillm.config import Experts, Glu, Mla, Mlp, preset
from minillm.inference.fast.choose import fastest
from minillm.inference.fast.shape import slow_part
from minillm.inference.generate import generate
from minillm.inference.quantization.convert import quantize_model
from minillm.inference.quantization.nf4_linear import Nf4Linear
from minillm.model.encoder_decoder import EncoderDecoder
from minillm.model.gpt import GPT
from minillm.model.masked_lm import MaskedLM
from minillm.tuning import card
from minillm.tuning.lora_linear import LoraLinear, lora_layers
from minillm.tuning.swapping import swapped

SIZES = {"vocab_size": 40, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "max_seq_len": 32}
FAMILIES = {
    "llama": preset("tiny-llama", **SIZES, ffn=Glu(48)),
    "gpt2": preset("gpt2", **SIZES | {"n_kv_heads": 4}, n_layers=2, ffn=Mlp(64, bias=True)),
    "latent": preset("tiny-llama", **SIZES | {"n_kv_heads": 4}, ffn=Glu(48), attention=Mla(kv_rank=12, rope_dim=4)),
    "experts": preset("tiny-llama", **SIZES, ffn=Experts(n_experts=3, top_k=2, d_ff=24)),
}


def base_model(seed: int, family: str = "llama") -> GPT:
    return GPT(FAMILIES[family], torch.Generator().manual_seed(seed)).double().eval()


def filled(model: nn.Module, seed: int) -> nn.Module:
    r"""Adapters that do something: lora_b is no longer zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_b"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def some_ids(seed: int) -> torch.Tensor:
    return torch.randint(SIZES["vocab_size"], (2, 9), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_adapter_is_the_base_and_only_it_is_trained(fresh_seed, family):
    model, ids = base_model(fresh_seed, family), some_ids(fresh_seed)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tuned = tuning.lora(model, rank=2, generator=torch.Generator().manual_seed(fresh_seed))
    assert torch.equal(tuned(ids), model(ids))
    trained = [name for name, each in tuned.named_parameters() if each.requires_grad]
    assert trained and all(name.rpartition(".")[2] in ("lora_a", "lora_b") for name in trained)
    assert not any("router" in name for name in trained)
    filled(tuned, fresh_seed)(ids).square().sum().backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_and_cached_give_the_same_logits(fresh_seed, family):
    model, ids = base_model(fresh_seed, family), some_ids(fresh_seed)
    tuned = filled(tuning.lora(model, rank=3, alpha=5.0, rank_stabilized=True), fresh_seed)
    want = tuned(ids)
    assert (want - model(ids)).abs().max() > 1e-3
    plain = tuning.merged(tuned)
    torch.testing.assert_close(plain(ids), want)
    assert not lora_layers(plain) and set(plain.state_dict()) == set(model.state_dict())
    assert not hasattr(plain, "card")
    cache = tuned.new_cache(2, 9)
    pieces = [tuned(ids[:, :4], cache=cache), *(tuned(ids[:, t : t + 1], cache=cache) for t in range(4, 9))]
    torch.testing.assert_close(torch.cat(pieces, dim=1), want)
    torch.testing.assert_close(tuned.last_logits(ids), want[:, -1])


def test_scaling_is_alpha_by_rank_or_by_its_root(fresh_seed):
    model = base_model(fresh_seed)
    for stabilized, divisor in ((False, 4), (True, 2)):
        tuned = filled(tuning.lora(model, 4, 3.0, ["q_proj"], rank_stabilized=stabilized), fresh_seed)
        layer = tuned.blocks[1].attn.q_proj
        adapter = layer.adapters["default"]
        want = model.blocks[1].attn.q_proj.weight + (3.0 / divisor) * adapter.lora_b @ adapter.lora_a
        torch.testing.assert_close(layer.weight, want)
        x = torch.randn(3, want.shape[1], dtype=torch.float64)
        torch.testing.assert_close(layer(x), x @ want.T)


def test_several_adapters_are_added_up_and_switched(fresh_seed):
    model, ids = base_model(fresh_seed), some_ids(fresh_seed)
    one = filled(tuning.lora(model, 2, targets=["q_proj", "down_proj"], name="one"), fresh_seed)
    both = filled(tuning.lora(one, 3, targets=["q_proj"], name="two"), fresh_seed + 1)
    layer, weight = both.blocks[0].attn.q_proj, model.blocks[0].attn.q_proj.weight
    changes = {name: each.scaling * each.lora_b @ each.lora_a for name, each in layer.adapters.items()}
    torch.testing.assert_close(layer.weight, weight + changes["one"] + changes["two"])
    trained = {name.split(".")[-2] for name, each in both.named_parameters() if each.requires_grad}
    assert trained == {"two"}, "the earlier adapter is frozen"
    assert set(lora_layers(one)["blocks.0.attn.q_proj"].adapters) == {"one"}, "the model given is not changed"
    with tuning.active(both):
        assert torch.equal(both(ids), model(ids))
        with tuning.active(both, "two"):
            torch.testing.assert_close(layer.weight, weight + changes["two"])
    with tuning.active(both, "one"):
        alone = both(ids)
    torch.testing.assert_close(alone, one(ids))
    torch.testing.assert_close(tuning.merged(both, ["two"]).blocks[0].attn.q_proj.weight, weight + changes["two"])
    torch.testing.assert_close(tuning.merged(both)(ids), both(ids))
    assert [step.settings["name"] for step in both.card.steps()] == ["one", "two"]
    assert len(card.small_tensors(both)) == sum(2 * len(layer.adapters) for layer in lora_layers(both).values())


def test_targets_by_last_name_and_by_longer_ends(fresh_seed):
    model = base_model(fresh_seed)
    linears = [name for name, module in model.blocks.named_modules() if isinstance(module, nn.Linear)]
    assert len(lora_layers(tuning.lora(model))) == len(linears)
    assert set(lora_layers(tuning.lora(model, targets=["ffn.up_proj", "blocks.1.attn.q_proj"]))) == {
        "blocks.0.ffn.up_proj", "blocks.1.ffn.up_proj", "blocks.1.attn.q_proj"} | {
        f"blocks.{layer}.ffn.up_proj" for layer in range(len(model.blocks))}
    assert isinstance(tuning.lora(base_model(1, "experts"), 2, targets=["router"]).blocks[0].ffn.router, LoraLinear)
    settings = tuning.lora(model, targets=("q_proj",)).card.settings
    assert settings["targets"] == ["q_proj"] and settings["rank"] == 8


def test_greedy_text_is_that_of_the_merged_model(fresh_seed):
    tuned = filled(tuning.lora(base_model(fresh_seed)), fresh_seed)
    texts = [generate(each, some_ids(fresh_seed)[:1], 12, temperature=0.0) for each in (tuned, tuning.merged(tuned))]
    assert torch.equal(*texts)


@pytest.mark.parametrize("kind", ["int8", "int4", "nf4"])
def test_a_quantized_base_takes_adapters_and_refuses_to_be_merged(fresh_seed, kind):
    model, ids = base_model(fresh_seed).float(), some_ids(fresh_seed)
    if kind == "nf4":
        few = swapped(model, lambda path, module: Nf4Linear.from_weight(module.weight, module.bias)
                      if type(module) is nn.Linear and "blocks" in path else None)
    else:
        few = quantize_model(model, kind)
    tuned = tuning.lora(few, rank=2)
    assert torch.equal(tuned(ids), few(ids))
    filled(tuned, fresh_seed)(ids).square().sum().backward()
    grads = [each.grad for each in tuned.parameters() if each.requires_grad]
    assert all(grad is not None and grad.abs().max() > 0 for grad in grads)
    with pytest.raises(ValueError, match="rounded to so few bits again"):
        tuning.merged(tuned)


def test_a_base_of_16_bits_has_factors_of_32(fresh_seed):
    tuned = tuning.lora(base_model(fresh_seed).bfloat16())
    assert {each.dtype for each in tuned.parameters() if each.requires_grad} == {torch.float32}
    assert tuned(some_ids(fresh_seed)).dtype == torch.bfloat16


def test_models_that_read_in_both_directions_and_those_of_two_stacks(fresh_seed):
    ids, source = some_ids(fresh_seed), some_ids(fresh_seed + 1)
    config = FAMILIES["gpt2"]
    for model, inputs in ((MaskedLM(config), (ids,)), (EncoderDecoder(config), (source, ids))):
        tuned = tuning.lora(model.double().eval(), 2)
        assert torch.equal(tuned(*inputs), model(*inputs))
        want = filled(tuned, fresh_seed)(*inputs)
        assert not torch.equal(want, model(*inputs))
        torch.testing.assert_close(tuning.merged(tuned)(*inputs), want)


def test_the_fast_path_is_for_the_merged_model():
    tuned = tuning.lora(base_model(0).float())
    assert fastest(tuned) is tuned and "LoraLinear" in slow_part(tuned)
    assert fastest(tuning.merged(tuned), "none") is not tuned and slow_part(tuning.merged(tuned)) is None


def test_dropout_is_on_the_adapter_alone_and_in_training_alone(fresh_seed):
    model, ids = base_model(fresh_seed), some_ids(fresh_seed)
    tuned = filled(tuning.lora(model, dropout=0.5), fresh_seed)
    assert torch.equal(tuned(ids), tuned(ids))
    tuned.train()
    assert not torch.equal(tuned(ids), tuned(ids))
    with tuning.active(tuned):
        assert torch.equal(tuned(ids), model(ids))


@pytest.mark.parametrize(("message", "arguments"), [
    ("'w_proj' is no linear layer", {"targets": ["w_proj"]}),
    ("'lm_head' is no linear layer", {"targets": ["lm_head"]}),
    (r"give a list of names, such as \['q_proj'\]", {"targets": "q_proj"}),
    ("nothing to adapt", {"targets": []}),
    ("rank=0", {"rank": 0}),
    ("rank=10000: blocks.0.attn.q_proj is", {"rank": 10000}),
    ("alpha=0", {"alpha": 0}),
    ("dropout=1", {"dropout": 1}),
    ("name='a.b'", {"name": "a.b"}),
    ("name='keys'", {"name": "keys"}),
])
def test_what_cannot_be_is_refused_by_name(message, arguments):
    model = base_model(0)
    with pytest.raises(ValueError, match=message):
        tuning.lora(model, **arguments)
    assert not lora_layers(model)


def test_names_that_are_taken_or_unknown(fresh_seed):
    tuned = tuning.lora(base_model(fresh_seed))
    with pytest.raises(ValueError, match="there is an adapter of this name"):
        tuning.lora(tuned)
    with pytest.raises(ValueError, match=r"no adapter 'other'; use some of \['default'\]"):
        tuning.active(tuned, "other").__enter__()
    for refuse in (tuning.merged, lambda model: tuning.active(model).__enter__()):
        with pytest.raises(ValueError, match="has no adapters"):
            refuse(base_model(fresh_seed))
