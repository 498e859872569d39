r"""Blocks handed over to the kernel: as right as torch's bf16, and only where it knows what they do."""

import copy

import pytest
import torch
import torch.nn.functional as F

from minillm.config import Alibi, AttentionOptions, Experts, Glu, Learned, Mlp, ModelConfig, Norm, Rope
from minillm.layers import recorder
from minillm.model.gpt import GPT
from minillm.training.fast import blocks, build
from tests.training.fast.kernel_ops import VERSIONS, ops_of

CPU = torch.device("cpu")
FORMS = {
    "GPT-2": dict(),
    "LLaMA": dict(ffn=Glu(96), norm=Norm("rms"), position=Rope(), n_heads=4, n_kv_heads=2,
                  attention=AttentionOptions()),
    "no biases, ReLU squared": dict(ffn=Mlp(128, "relu_squared"), norm=Norm("layer", bias=False),
                                    attention=AttentionOptions()),
    "one key head, tanh": dict(ffn=Mlp(160, "gelu_tanh", bias=True), n_heads=3, n_kv_heads=1, head_dim=64),
}


def config(**changes):
    settings = dict(vocab_size=50, max_seq_len=64, d_model=64, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=32,
                    ffn=Mlp(256, "gelu", bias=True), norm=Norm("layer", bias=True), position=Learned(),
                    attention=AttentionOptions(qkv_bias=True, o_bias=True))
    return ModelConfig(**{**settings, **changes})


def random_model(seed, **changes):
    r"""Weights that bf16 can hold, none of them special."""
    generator = torch.Generator().manual_seed(seed)
    model = GPT(config(**changes), generator)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        parameter.data = parameter.data.bfloat16().float()
    return model.train()


def batch(seed, length, batch_size=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 50, (2, batch_size, length), generator=generator)


def gradients(model, ids, targets, handed_over=None):
    r"""By name; those of blocks as the kernel adds them up, if they are handed over (True: to its fast version)."""
    added = {parameter: torch.zeros(parameter.shape) for parameter in model.parameters()}
    with blocks.kernel_blocks(model, added.__getitem__, handed_over is not None, bool(handed_over)):
        F.cross_entropy(model(ids).float().flatten(0, 1), targets.flatten()).backward()
    if handed_over is None:
        return {name: p.grad.double() for name, p in model.named_parameters()}
    assert all(p.grad is None for name, p in model.named_parameters() if name.startswith("blocks."))
    return {name: (added[p] if p.grad is None else p.grad).double() for name, p in model.named_parameters()}


@pytest.mark.parametrize("fast", VERSIONS.values(), ids=VERSIONS)
@pytest.mark.parametrize("changes", FORMS.values(), ids=FORMS)
def test_gradients_are_as_right_as_those_of_torch_in_bf16(fresh_seed, changes, fast):
    ops_of(fast)
    length = 8 + fresh_seed % 57
    model = random_model(fresh_seed, **changes)
    ids, targets = batch(fresh_seed, length)
    exact = gradients(copy.deepcopy(model).double(), ids, targets)
    torchs = gradients(copy.deepcopy(model).bfloat16(), ids, targets)
    ours = gradients(copy.deepcopy(model).bfloat16(), ids, targets, fast)

    def error(got, name):
        # That of keys' biases is zero, since what is added to all keys changes no weight: beside that of queries'.
        size = exact[name.replace("k_proj", "q_proj") if name.endswith("k_proj.bias") else name].norm()
        return float((got[name] - exact[name]).norm() / size)

    # Over 400 models of these forms the largest error of any parameter is 0.014 +- 0.002, at most 0.022; and all errors
    # together are 0.79 +- 0.07 times those of torch.
    for name in exact:
        assert error(ours, name) < 0.06, name
    overall = [sum(error(got, name) for name in exact) for got in (ours, torchs)]
    assert overall[0] < 1.3 * overall[1]


def test_gradients_add_up_and_the_forward_is_put_back(fresh_seed):
    ops_of(fast=False)
    model = random_model(fresh_seed).bfloat16()
    ids, targets = batch(fresh_seed, 20)
    once, twice = ({p: torch.zeros(p.shape) for p in model.parameters()} for _ in range(2))
    for added, times in ((once, 1), (twice, 2)):
        with blocks.kernel_blocks(model, added.__getitem__, fast=False):
            for _ in range(times):
                F.cross_entropy(model(ids).float().flatten(0, 1), targets.flatten()).backward()
    for name, parameter in model.named_parameters():
        if name.startswith("blocks."):
            torch.testing.assert_close(twice[parameter], 2 * once[parameter])
    assert not any("forward" in vars(block) for block in model.blocks)


def test_a_second_backward_pass_is_refused():
    ops_of(fast=False)
    model = random_model(0).bfloat16()
    with blocks.kernel_blocks(model, lambda p: torch.zeros(p.shape), fast=False):
        loss = model(batch(0, 20)[0]).float().mean()
        loss.backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="compute the loss again"):
            loss.backward()


def test_threads_change_nothing(fresh_seed):
    ops_of(fast=False)
    model, threads = random_model(fresh_seed).bfloat16(), torch.get_num_threads()
    ids, targets = batch(fresh_seed, 26, batch_size=8)
    try:
        results = []
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            results.append(gradients(copy.deepcopy(model), ids, targets, handed_over=False))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0] if name.startswith("blocks."))


def other_calls(model):
    r"""Calls that the kernel leaves alone, by name: each gives logits."""
    ids = batch(0, 20)[0]
    mask = torch.ones(3, 20, dtype=torch.bool)
    mask[0, :5] = False

    def recorded():
        with recorder.record("attn_weights"):
            return model(ids)

    return {"without gradients": lambda: torch.no_grad()(model)(ids), "short": lambda: model(ids[:, :7]),
            "padding": lambda: model(ids, padding_mask=mask), "recorder": recorded,
            "cache": lambda: model(ids, cache=model.new_cache(3, 20)),
            "later positions": lambda: model(ids, positions=torch.arange(3, 23))}


@pytest.mark.parametrize("name", ("without gradients", "short", "padding", "cache", "recorder", "later positions"))
def test_other_calls_run_as_always(name):
    ops_of(fast=False)
    model = random_model(0).bfloat16()
    want = other_calls(model)[name]()
    with blocks.kernel_blocks(model, lambda p: torch.zeros(p.shape), fast=False) as passes:
        got = other_calls(model)[name]()
        trained = model(batch(0, 20)[0])
    assert torch.equal(got, want)
    assert (passes["kernel"], passes["PyTorch"]) == (2, 0 if name == "without gradients" else 2)
    assert not torch.equal(trained, model(batch(0, 20)[0])), "the kernel was never asked"


UNKNOWN = {
    "post-norm": (dict(residual="post"), "pre-norm"),
    "dropout": (dict(dropout=0.1), "without dropout"),
    "window": (dict(attention=AttentionOptions(window=8)), "without windows"),
    "bias on scores": (dict(position=Alibi()), "learned or rotary positions"),
    "norms on queries": (dict(attention=AttentionOptions(qk_norm=True)), "norms on queries"),
    "experts": (dict(ffn=Experts(n_experts=2, top_k=1, d_ff=64)), "MLPs and GLUs"),
    "activation": (dict(ffn=Mlp(64, "tanh")), "MLPs and GLUs with gelu"),
    "widths": (dict(ffn=Mlp(100)), "multiples of 32"),
    "narrow heads": (dict(n_heads=4, n_kv_heads=4, head_dim=16), "multiples of 32"),
}


@pytest.mark.parametrize(("changes", "reason"), UNKNOWN.values(), ids=UNKNOWN)
def test_blocks_of_other_forms_are_refused(changes, reason):
    model = GPT(config(**changes))
    assert reason in blocks.why_not(model, "bf16", CPU)
    with (pytest.raises(ValueError, match="train it without the kernel"),
          blocks.kernel_blocks(model, lambda p: torch.zeros(p.shape))):
        pass


def test_what_else_stands_in_the_way(monkeypatch):
    model = GPT(config())
    assert "this is fp32 on cpu" in blocks.why_not(model, "fp32", CPU)
    assert "no list `blocks`" in blocks.why_not(torch.nn.Linear(2, 2), "bf16", CPU)
    model.blocks[1].ffn.up_proj.weight.requires_grad_(False)
    assert "frozen" in blocks.why_not(model, "bf16", CPU)
    model.blocks[1].ffn.up_proj.weight.requires_grad_(True)
    monkeypatch.setattr(build, "training_kernel_failure", lambda: "no compiler")
    assert blocks.why_not(model, "bf16", CPU) == "no compiler"


def test_nothing_happens_where_it_is_switched_off():
    model = GPT(config(residual="post"))
    with blocks.kernel_blocks(model, lambda p: torch.zeros(p.shape), active=False):
        assert not any("forward" in vars(block) for block in model.blocks)
