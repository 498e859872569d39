r"""The mixture of experts against dense loops, against transformers, and against its own promises."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.layers.moe import MoE, expert_capacity, load_balance_loss, top_k_route, within_capacity
from minillm.layers.recorder import record


def dense_loop(moe: MoE, x: torch.Tensor) -> torch.Tensor:
    r"""Every expert for every token, weighted by a softmax over all logits in which the unchosen are struck out."""
    rows = []
    for token in x.reshape(-1, x.shape[-1]):
        logits = (moe.router.weight @ token).tolist()
        chosen = sorted(range(len(logits)), key=lambda e: -logits[e])[: moe.top_k]
        total = sum(math.exp(logits[e]) for e in chosen)
        rows.append(sum(math.exp(logits[e]) / total * moe.experts[e](token) for e in chosen))
    return torch.stack(rows).view_as(x)


@pytest.mark.parametrize("n_experts, top_k", [(1, 1), (4, 1), (5, 2), (3, 3)])
def test_moe_is_the_dense_loop_over_its_experts(n_experts, top_k, fresh_seed):
    torch.manual_seed(fresh_seed)
    moe = MoE(6, n_experts, top_k, 7).double()
    for shape in ((2, 5, 6), (9, 6), (6,)):
        x = torch.randn(shape, dtype=torch.float64)
        torch.testing.assert_close(moe(x), dense_loop(moe, x))


def test_moe_of_all_experts_and_equal_ones_is_one_expert(fresh_seed):
    torch.manual_seed(fresh_seed)
    moe = MoE(6, 4, 2, 7).double()
    for expert in moe.experts[1:]:
        expert.load_state_dict(moe.experts[0].state_dict())
    x = torch.randn(3, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(moe(x), moe.experts[0](x))


def test_moe_is_the_block_of_mixtral(fresh_seed):
    mixtral = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    torch.manual_seed(fresh_seed)
    config = mixtral.MixtralConfig(hidden_size=8, intermediate_size=11, num_local_experts=5, num_experts_per_tok=2)
    theirs, ours = mixtral.MixtralSparseMoeBlock(config).eval(), MoE(8, 5, 2, 11).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # they are allocated, not drawn
            parameter.copy_(torch.randn(parameter.shape))
        ours.router.weight.copy_(theirs.gate.weight)
        for number, expert in enumerate(ours.experts):
            gate, up = theirs.experts.gate_up_proj[number].chunk(2)
            expert.gate_proj.weight.copy_(gate)
            expert.up_proj.weight.copy_(up)
            expert.down_proj.weight.copy_(theirs.experts.down_proj[number])
        x = torch.randn(2, 6, 8)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


def test_routing_is_the_softmax_of_all_cut_and_renormalized(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    logits = torch.randn(3, 7, 6, generator=generator, dtype=torch.float64) * 3
    for top_k in (1, 2, 6):
        weights, indices = top_k_route(logits, top_k)
        largest, want = logits.softmax(-1).topk(top_k)
        assert torch.equal(indices, want)
        torch.testing.assert_close(weights, largest / largest.sum(-1, keepdim=True))
    for top_k in (0, 7):
        with pytest.raises(ValueError, match=f"top_k={top_k}"):
            top_k_route(logits, top_k)


@pytest.mark.parametrize("masked", [False, True])
def test_balancing_loss_is_that_of_transformers_over_top_k(masked, fresh_seed):
    mixtral = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    generator = torch.Generator().manual_seed(fresh_seed)
    for n_experts, top_k in ((4, 1), (6, 2), (3, 3)):
        logits = torch.randn(5, 8, n_experts, generator=generator) * 2
        counted = torch.rand(5, 8, generator=generator) < 0.6 if masked else None
        theirs = mixtral.load_balancing_loss_func(
            (logits.reshape(-1, n_experts),), n_experts, top_k, None if counted is None else counted.long()
        )
        ours = load_balance_loss(logits, top_k_route(logits, top_k)[1], counted)
        torch.testing.assert_close(ours * top_k, theirs)


def test_balancing_loss_knows_fair_and_unfair():
    turns = torch.eye(8).repeat(4, 1)  # each token has a favourite, all favourites are as frequent
    assert load_balance_loss(turns, turns.topk(1).indices).item() == pytest.approx(1.0)
    collapsed = torch.zeros(32, 8)
    collapsed[:, 3] = 60.0
    assert load_balance_loss(collapsed, collapsed.topk(1).indices).item() == pytest.approx(8.0)
    collapsed[:, 5] = 60.0
    assert load_balance_loss(collapsed, collapsed.topk(2).indices).item() == pytest.approx(4.0)


def test_balancing_loss_pushes_the_crowded_expert_down(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    logits = torch.randn(200, 4, generator=generator)
    logits[:, 2] += 2.0
    logits.requires_grad_()
    load_balance_loss(logits, logits.topk(1).indices).backward()
    push = logits.grad.sum(0)
    assert push.argmax() == 2 and push[2] > 0
    torch.testing.assert_close(push.sum(), torch.tensor(0.0), rtol=0, atol=1e-6)


@given(st.integers(1, 6), st.integers(1, 3), st.integers(0, 30), st.integers(1, 9), st.integers(0, 2**31))
def test_capacity_serves_the_first_in_the_queue(n_experts, top_k, n_tokens, capacity, seed):
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randint(0, n_experts, (n_tokens, top_k), generator=generator)
    taken: Counter[int] = Counter()
    want = []
    for token in indices.tolist():
        want.append([])
        for expert in token:
            taken[expert] += 1
            want[-1].append(taken[expert] <= capacity)
    assert within_capacity(indices, n_experts, capacity).tolist() == want


def test_capacity_is_a_fair_share_times_the_factor():
    assert expert_capacity(64, 8, 2, 1.0) == 16
    assert expert_capacity(65, 8, 1, 1.0) == 9
    assert expert_capacity(64, 8, 1, 1.25) == 10


def test_dropped_choices_give_nothing_and_only_in_training(fresh_seed):
    torch.manual_seed(fresh_seed)
    full = MoE(6, 4, 2, 5)
    moe = MoE(6, 4, 2, 5, capacity_factor=0.5)
    moe.load_state_dict(full.state_dict())
    x = torch.randn(3, 4, 6)
    torch.testing.assert_close(moe.eval()(x), full(x))
    with record() as tape:
        out = moe.train()(x)
    served, indices = tape["served"][0], tape["router_indices"][0].view(-1, 2)
    capacity = expert_capacity(12, 4, 2, 0.5)
    assert torch.bincount(indices[served], minlength=4).max() <= capacity and not served.all()
    weights, _ = top_k_route(tape["router_logits"][0].view(-1, 4), 2)
    want = [
        sum((weights[n, k] * moe.experts[indices[n, k]](token) for k in range(2) if served[n, k]), torch.zeros(6))
        for n, token in enumerate(x.view(-1, 6))
    ]
    torch.testing.assert_close(out.view(-1, 6), torch.stack(want))


def test_dropping_depends_on_no_later_token(fresh_seed):
    torch.manual_seed(fresh_seed)
    moe = MoE(6, 3, 2, 5, capacity_factor=0.6).train()
    x = torch.randn(20, 6)
    later = torch.cat([x[:12], torch.randn(8, 6)])
    torch.testing.assert_close(moe(x)[:12], moe(later)[:12])


def test_every_weight_gets_a_gradient_even_of_an_expert_nobody_chose(fresh_seed):
    torch.manual_seed(fresh_seed)
    moe = MoE(6, 8, 1, 5)
    moe(torch.randn(2, 6)).square().sum().backward()
    grads = [expert.up_proj.weight.grad for expert in moe.experts]
    assert all(grad is not None for grad in grads)
    assert 1 <= sum(bool(grad.any()) for grad in grads) <= 2


def test_sizes_out_of_range_are_named():
    with pytest.raises(ValueError, match="top_k=5"):
        MoE(6, 4, 5, 7)
    with pytest.raises(ValueError, match="capacity_factor=-1"):
        MoE(6, 4, 2, 7, capacity_factor=-1.0)
