r"""The factors against algebra; a swapped model shares its base's memory."""

import pytest
import torch
from torch import nn

from minillm.config import preset
from minillm.model.gpt import GPT
from minillm.tuning.low_rank import lora_forward, lora_init, lora_merge
from minillm.tuning.swapping import swapped


def draw(seed: int) -> tuple[torch.Generator, int, int, int]:
    generator = torch.Generator().manual_seed(seed)
    d_in, d_out = torch.randint(5, 40, (2,), generator=generator).tolist()
    return generator, d_in, d_out, int(torch.randint(1, min(d_in, d_out) + 1, (), generator=generator))


def test_fresh_factors_change_nothing_and_can_learn(fresh_seed):
    generator, d_in, d_out, rank = draw(fresh_seed)
    lora_a, lora_b = (each.requires_grad_() for each in lora_init(d_in, d_out, rank, generator))
    x = torch.randn(3, 2, d_in, generator=generator)
    base = torch.randn(3, 2, d_out, generator=generator)
    out = lora_forward(x, base, lora_a, lora_b, 2.0)
    assert torch.equal(out, base)
    out.square().sum().backward()
    assert not lora_a.grad.any() and lora_b.grad.any(), "only lora_b may move in the first step"
    assert lora_a.abs().max() <= d_in**-0.5 and lora_a.std() > 0
    with pytest.raises(ValueError, match="rank=0"):
        lora_init(d_in, d_out, 0)


def test_merged_equals_unmerged_and_can_be_taken_out(fresh_seed):
    generator, d_in, d_out, rank = draw(fresh_seed)
    weight = torch.randn(d_out, d_in, generator=generator, dtype=torch.float64)
    lora_a = torch.randn(rank, d_in, generator=generator, dtype=torch.float64)
    lora_b = torch.randn(d_out, rank, generator=generator, dtype=torch.float64)
    x = torch.randn(7, d_in, generator=generator, dtype=torch.float64)
    merged = lora_merge(weight, lora_a, lora_b, 0.5)
    torch.testing.assert_close(x @ merged.T, lora_forward(x, x @ weight.T, lora_a, lora_b, 0.5))
    torch.testing.assert_close(lora_merge(merged, lora_a, lora_b, -0.5), weight)
    assert torch.linalg.matrix_rank(merged - weight) == rank


def test_a_swapped_model_shares_the_numbers_and_leaves_the_base_alone(fresh_seed):
    model = GPT(preset("tiny-llama", vocab_size=30), torch.Generator().manual_seed(fresh_seed))
    names = {name for name, _ in model.named_modules()}

    def wrap(name: str, module: nn.Module) -> nn.Module | None:
        return nn.Sequential(module) if name.endswith("q_proj") else None

    twin = swapped(model, wrap)
    token_ids = torch.randint(30, (2, 9))
    assert torch.equal(twin(token_ids), model(token_ids))
    assert {name for name, _ in model.named_modules()} == names
    assert isinstance(twin.blocks[0].attn.q_proj, nn.Sequential)
    ours, theirs = ({each.data_ptr() for each in net.parameters()} for net in (model, twin))
    assert ours == theirs and twin.lm_head.weight is twin.tok_emb.weight
    assert all(each.requires_grad for each in model.parameters())
    assert not any(each.requires_grad for each in twin.parameters())
    with pytest.raises(ValueError, match="none of its modules"):
        swapped(model, lambda name, module: None)
