r"""QLoRA: LoRA over a rounded base, which costs an eighth of the memory and keeps none of its matrices for later."""

import pytest
import torch

from minillm import tuning
from minillm.config import Glu, preset
from minillm.inference.generate import generate
from minillm.inference.quantization import nf4
from minillm.inference.quantization.convert import is_quantized, quantize_model, stored_bytes
from minillm.inference.quantization.nf4_linear import Nf4Linear
from minillm.model.gpt import GPT
from minillm.tuning.lora_linear import lora_layers
from minillm.tuning.qlora import with_nf4_base

SIZES = {"vocab_size": 40, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "max_seq_len": 32}


def small_model(seed: int) -> GPT:
    return GPT(preset("tiny-llama", **SIZES, ffn=Glu(48)), torch.Generator().manual_seed(seed)).eval()


def fill(model: torch.nn.Module, seed: int) -> None:
    r"""Factors as if they had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def rounded_twin(model: GPT) -> GPT:
    r"""The same model in floats, with the blocks' matrices rounded by the plain functions of NF4."""
    twin = GPT(model.config, torch.Generator().manual_seed(0)).eval()
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        for name, module in twin.named_modules():
            if "blocks" in name and type(module) is torch.nn.Linear:
                codes, scales = nf4.nf4_quantize(module.weight)
                module.weight.copy_(nf4.restore_nf4(codes, nf4.restore_scales(*nf4.double_quantize(scales))))
    return twin


def test_is_lora_over_the_rounded_model(fresh_seed):
    model, token_ids = small_model(fresh_seed), torch.randint(40, (2, 9))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tuned = tuning.qlora(model, 4, generator=torch.Generator().manual_seed(fresh_seed))
    twin = rounded_twin(model)
    torch.testing.assert_close(tuned(token_ids), twin(token_ids), atol=1e-4, rtol=1e-4)
    plain = tuning.lora(twin, 4)
    for seed, each in ((fresh_seed, tuned), (fresh_seed, plain)):
        fill(each, seed)
    torch.testing.assert_close(tuned(token_ids), plain(token_ids), atol=1e-3, rtol=1e-3)
    for each in (tuned, plain):
        each(token_ids).square().mean().backward()
    ours, theirs = ({name: parameter.grad for name, parameter in each.named_parameters() if parameter.requires_grad}
                    for each in (tuned, plain))
    assert ours.keys() == theirs.keys() and all(".adapters." in name for name in ours)
    for name, grad in ours.items():
        torch.testing.assert_close(grad, theirs[name], atol=1e-3 * float(theirs[name].norm()) + 1e-6, rtol=1e-2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_lies_in_codes_and_what_is_shared():
    model = small_model(1)
    tuned = tuning.qlora(model, 2, targets=["q_proj"])
    kinds = {type(module) for name, module in tuned.named_modules() if name.endswith(("_proj", "base"))}
    assert torch.nn.Linear not in kinds and Nf4Linear in kinds
    assert {name.rpartition(".")[2] for name in lora_layers(tuned)} == {"q_proj"}
    assert tuned.tok_emb.weight.data_ptr() == model.tok_emb.weight.data_ptr() and is_quantized(tuned)
    blocks = [module for module in tuned.modules() if isinstance(module, Nf4Linear)]
    n_weights = sum(layer.in_features * layer.out_features for layer in blocks)
    n_blocks_of_64 = n_weights // 64
    # the codes, a byte for each scale, and a float32 for each of theirs (one a layer here) and for their mean
    assert sum(map(stored_bytes, blocks)) == n_weights // 2 + n_blocks_of_64 + 8 * len(blocks)
    assert n_weights == sum(module.weight.numel() for name, module in model.named_modules()
                            if "blocks" in name and type(module) is torch.nn.Linear)


def test_the_adapter_fits_the_same_base_again_and_cannot_be_merged_into_codes(fresh_seed):
    model, token_ids = small_model(fresh_seed), torch.randint(40, (1, 5))
    tuned = tuning.qlora(model, 4, alpha=6.0)
    assert tuned.card.method == "qlora" and tuned.card.before is None
    again = tuning.qlora(model, **tuned.card.settings)
    fill(tuned, fresh_seed)
    fill(again, fresh_seed)
    assert torch.equal(again(token_ids), tuned(token_ids))
    assert generate(tuned, token_ids, 4, temperature=0.0).shape == (1, 9)
    with pytest.raises(ValueError, match="rounded to so few bits"):
        tuning.merged(tuned)
    with tuning.active(tuned):
        assert torch.equal(tuned(token_ids), with_nf4_base(model)(token_ids))


def test_refusals():
    model = small_model(2)
    for other in (tuning.qlora(model), tuning.lora(model), quantize_model(model)):
        with pytest.raises(ValueError, match="quantized or tuned already"):
            tuning.qlora(other)
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.q_proj: group_size=100"):
        tuning.qlora(model, group_size=100)
    with pytest.raises(ValueError, match="none of its modules"):
        with_nf4_base(torch.nn.Linear(4, 4))
