r"""The peer is the same function as our model, takes the same step, and computes nothing twice."""

import pytest
import torch
import torch.nn.functional as F

from minillm.bench.training.peer import PeerGPT, peer_optimizer, peer_step
from minillm.bench.training.settings import SETTINGS, Setting
from minillm.model.gpt import GPT
from minillm.training.loop import train
from minillm.training.recipe import Recipe

VOCAB = 11


def pair(seed: int) -> tuple[GPT, PeerGPT, tuple[torch.Tensor, torch.Tensor]]:
    r"""Our model with biases and norms that are not their fresh zeros and ones, the peer, and a batch."""
    generator = torch.Generator().manual_seed(seed)
    model = GPT(Setting(2, 2, 8, 6, 3).config(VOCAB), generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    rows = torch.randint(VOCAB, (3, 7), generator=generator)
    return model, PeerGPT(model), (rows[:, :-1], rows[:, 1:])


def test_the_peer_is_the_same_function(fresh_seed):
    model, own, (token_ids, targets) = pair(fresh_seed)
    want = F.cross_entropy(model(token_ids).flatten(0, 1), targets.flatten())
    torch.testing.assert_close(own(token_ids, targets), want, rtol=1e-5, atol=1e-6)
    assert own.head.weight is own.tokens.weight
    assert sum(p.numel() for p in own.parameters()) == sum(p.numel() for p in model.parameters())
    own.tokens.weight.data.zero_()
    assert model.tok_emb.weight.abs().sum() > 0, "the peer shares our weights"


@pytest.mark.parametrize("autocast", [False, True])
def test_both_learn_alike(fresh_seed, autocast):
    model, own, batch = pair(fresh_seed)
    recipe = Recipe(dtype="bf16" if autocast else "fp32", learning_rate=0.01, warmup_steps=0, schedule="cosine",
                    floor=1.0, weight_decay=0.0)
    optimizer = peer_optimizer(own, recipe.weight_decay, recipe.betas)
    train(model, iter([batch] * 5), recipe, steps=5)
    for _ in range(5):
        loss = peer_step(own, own, optimizer, batch, 0.01, autocast)
    assert not loss.requires_grad and all(p.grad is None for p in own.parameters())
    token_ids, targets = batch
    ours = F.cross_entropy(model(token_ids).flatten(0, 1), targets.flatten())
    torch.testing.assert_close(own(token_ids, targets), ours, rtol=3e-2 if autocast else 1e-3, atol=0.0)


def test_matrices_of_the_peer_decay():
    _, own, _ = pair(0)
    decayed, plain = (group["params"] for group in peer_optimizer(own, 0.1, (0.9, 0.95)).param_groups)
    assert len(decayed) + len(plain) == len(list(own.parameters()))
    assert any(p is own.tokens.weight for p in decayed) and all(p.dim() == 1 for p in plain)


def test_the_settings_are_the_ones_that_are_promised():
    sizes = [(s.n_layers, s.n_heads, s.d_model, s.seq_len, s.batch_size) for s in SETTINGS.values()]
    assert sizes == [(4, 4, 128, 128, 32), (6, 6, 384, 256, 8)]
