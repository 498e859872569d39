r"""Matrices split over ranks against whole ones: layers alone, and a GPT with its gradients."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from minillm.config import Alibi, AttentionOptions, Experts, Glu, Mlp, Norm, Rope
from minillm.layers import masks
from minillm.training import collectives, split_gpt, tensor_parallel
from minillm.training.wires import run_ranks
from tests.training.parallel_cases import LENGTH, parallel_config, uneven_batch, whole_loss, whole_model


@pytest.mark.parametrize("n_ranks", [1, 2, 3])
def test_split_layers_equal_whole_ones(n_ranks, fresh_seed):
    g = torch.Generator().manual_seed(fresh_seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    x, up, up_bias, down, down_bias = draw(2, 5, 4), draw(12, 4), draw(12), draw(4, 12), draw(4)
    w_q, w_k, w_v, w_o = draw(12, 4), draw(12, 4), draw(12, 4), draw(4, 12)
    mask = masks.causal_mask(torch.arange(5), torch.arange(5))

    def work(wire):
        def add_up(part):
            return collectives.all_reduce(part, wire)

        ranks = wire.rank, wire.n_ranks
        mlp = tensor_parallel.mlp_shard(x, up, up_bias, down, down_bias, *ranks, F.silu, add_up)
        half = wire.sent.total()
        return mlp, tensor_parallel.attention_shard(x, w_q, w_k, w_v, w_o, 6, *ranks, add_up, mask), half

    q, k, v = ((x @ w.T).unflatten(-1, (6, 2)).transpose(1, 2) for w in (w_q, w_k, w_v))
    read = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(-2) @ w_o.T
    want = F.linear(F.silu(F.linear(x, up, up_bias)), down, down_bias)
    for mlp, attention, sent in run_ranks(work, n_ranks):
        torch.testing.assert_close(mlp, want, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(attention, read, rtol=1e-10, atol=1e-10)
        size = -(-x.numel() // n_ranks)
        assert sent == 2 * (n_ranks - 1) * size * 8, "one all-reduce of the output"


def test_what_does_not_fit_is_refused():
    x, up, down = torch.zeros(1, 4), torch.zeros(10, 4), torch.zeros(4, 10)
    with pytest.raises(ValueError, match="n_ranks=3 does not divide d_ff=10"):
        tensor_parallel.mlp_shard(x, up, torch.zeros(10), down, torch.zeros(4), 0, 3, F.silu, lambda part: part)
    w = torch.zeros(8, 4)
    with pytest.raises(ValueError, match="n_ranks=3 does not divide n_heads=4"):
        tensor_parallel.attention_shard(x[None], w, w, w, w.T, 4, 0, 3, lambda part: part)
    config = parallel_config()
    for change, words in (
        ({"ffn": Experts(2, 1, 8)}, "only Mlp and Glu"),
        ({"position": Alibi()}, "positions that ignore heads"),
        ({"attention": AttentionOptions(qk_norm=True)}, "without QK-norm"),
        ({"ffn": Mlp(32, bias=True)}, "every rank would add the bias"),
        ({"ffn": Mlp(33)}, "ffn.d_ff=33 cannot be shared out to n_ranks=2"),
    ):
        with pytest.raises(ValueError, match=words):
            split_gpt.split_config(replace(config, **change), 2)


@pytest.mark.parametrize(
    "changes",
    [{}, {"position": Rope(), "ffn": Glu(24), "norm": Norm("rms"), "n_heads": 8, "tie_embeddings": False}],
    ids=["gpt", "llama"],
)
def test_a_split_gpt_equals_the_whole_one(changes, fresh_seed):
    model, weights = whole_model(fresh_seed, **changes)
    batch = uneven_batch(fresh_seed)
    loss = whole_loss(model, *batch)
    loss.backward()
    with torch.no_grad():
        logits = model(batch[0])
    n_whole = sum(parameter.numel() for parameter in model.parameters())
    for n_ranks in (2, 4):
        found = run_ranks(split_gpt.split_forward_backward, n_ranks, model.config, weights, *batch)
        joined = split_gpt.join_split([report.gradients for report in found])
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(joined[name], parameter.grad, rtol=1e-3, atol=1e-6)
        n_split = sum(p.numel() for name, p in model.named_parameters() if split_gpt.split_dim(name) is not None)
        activations = 6 * LENGTH * 16 * 4
        for report in found:
            assert report.loss == pytest.approx(loss.item(), rel=1e-5)
            torch.testing.assert_close(report.logits, logits, rtol=1e-4, atol=1e-4)
            assert report.n_weights == n_whole - n_split + n_split // n_ranks
            per_pass = 2 * model.config.n_layers * 2 * (n_ranks - 1) * activations // n_ranks  # two all-reduces a block
            assert report.sent == {"forward": per_pass, "backward": per_pass}
