r"""The assembled model against a second writing of it, and the promises of its interface."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from minillm.config import (
    Alibi,
    AttentionOptions,
    DynamicNtk,
    Ends,
    Experts,
    Glu,
    Init,
    Learned,
    Mla,
    Mlp,
    ModelConfig,
    NoPosition,
    Norm,
    Rope,
    Sinusoidal,
    preset,
)
from minillm.layers import paths, recorder
from minillm.model.gpt import GPT
from minillm.model.rotation import model_angles
from minillm.model.token_positions import resolve_positions

VARIANTS = {
    "gpt2": dict(ffn=Mlp(40, "gelu_tanh", bias=True), attention=AttentionOptions(True, True)),
    "llama": dict(ffn=Glu(24), norm=Norm("rms", 1e-6), position=Rope(500.0), tie_embeddings=False, n_kv_heads=2),
    "multi-query": dict(ffn=Mlp(16, "relu_squared"), position=Sinusoidal(), n_kv_heads=1),
    "alibi": dict(ffn=Mlp(16), position=Alibi()),
    "window": dict(ffn=Mlp(16), position=Rope(), attention=AttentionOptions(window=3)),
    "partial rotary, side by side": dict(
        ffn=Mlp(16, bias=True), position=Rope(share=0.34), residual="parallel", attention=AttentionOptions(True, True)),
    "sandwich, QK-norm": dict(
        ffn=Glu(16), position=Rope(), residual="sandwich", norm=Norm("rms"), attention=AttentionOptions(qk_norm=True)),
    "DeepNorm, both ends": dict(ffn=Mlp(16), residual="deepnorm", ends=Ends(2.0, True, True, 0.5)),
    "windows by layer, own scale": dict(
        ffn=Mlp(16), position=Alibi(), attention=AttentionOptions(window=(2, None, 3), scale=0.7)),
    "latent attention, experts": dict(
        ffn=Experts(3, 2, 8), position=Rope(), attention=Mla(5, 4, v_dim=3, q_rank=7), norm=Norm("rms", 1e-6)),
    "post-norm": dict(ffn=Mlp(16), residual="post", position=NoPosition()),
}


def small(variant, **changes):
    sizes = dict(vocab_size=31, max_seq_len=24, d_model=20, n_layers=3, n_heads=4, n_kv_heads=4, head_dim=6,
                 init=Init(0.5, 0.3, "plain"))
    model = GPT(ModelConfig(**sizes | VARIANTS[variant] | changes)).eval().double()
    for p in model.parameters():  # norms and biases too, so that a forgotten one is seen
        p.data += 0.1 * torch.randn_like(p)
    return model


def second_writing(model, ids):
    r"""A decoder written from the state dict with torch's own attention; left to right, one row at a time."""
    c, w = model.config, model.state_dict()
    eps, t = c.norm.eps, ids.shape[1]

    def norm(x, name):
        if c.norm.kind == "rms":
            return F.rms_norm(x, x.shape[-1:], w[f"{name}.weight"], eps)
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w.get(f"{name}.bias"), eps)

    def linear(x, name):
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def turn(x):
        freq = c.position.base ** (-torch.arange(0, c.head_dim, 2).double() / c.head_dim)
        z = torch.view_as_complex(torch.stack(x.chunk(2, -1), -1).contiguous())
        z = z * torch.polar(torch.ones(()).double(), torch.arange(t)[:, None] * freq)
        return torch.cat([z.real, z.imag], -1)

    x = w["tok_emb.weight"][ids]
    if isinstance(c.position, Learned):
        x = x + w["pos_emb.weight"][:t]
    for i in range(c.n_layers):
        b = f"blocks.{i}"
        h = norm(x, f"{b}.attn_norm")
        q, k, v = (
            linear(h, f"{b}.attn.{p}_proj").unflatten(-1, (-1, c.head_dim)).transpose(1, 2) for p in "qkv"
        )
        if isinstance(c.position, Rope):
            q, k = turn(q), turn(k)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + linear(a.transpose(1, 2).flatten(2), f"{b}.attn.o_proj")
        h = norm(x, f"{b}.ffn_norm")
        if isinstance(c.ffn, Glu):
            h = F.silu(linear(h, f"{b}.ffn.gate_proj")) * linear(h, f"{b}.ffn.up_proj")
        else:
            h = F.gelu(linear(h, f"{b}.ffn.up_proj"), approximate="tanh")
        x = x + linear(h, f"{b}.ffn.down_proj")
    head = w["tok_emb.weight"] if c.tie_embeddings else w["lm_head.weight"]
    return norm(x, "final_norm") @ head.T


@pytest.mark.parametrize("variant", ["gpt2", "llama"])
def test_logits_equal_a_second_writing(variant, fresh_seed):
    torch.manual_seed(fresh_seed)
    model, ids = small(variant), torch.randint(0, 31, (3, 11))
    torch.testing.assert_close(model(ids), second_writing(model, ids), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model(ids), model.lm_head(model.hidden(ids)))
    torch.testing.assert_close(model.last_logits(ids), model(ids)[:, -1])


@pytest.mark.parametrize("variant", VARIANTS)
@given(chunks=st.lists(st.integers(1, 5), min_size=1, max_size=4), seed=st.integers(0, 2**31))
def test_cached_equals_uncached_for_every_chunking(variant, chunks, seed):
    torch.manual_seed(seed)
    model, n = small(variant), sum(chunks)
    ids, cache = torch.randint(0, 31, (2, n)), None
    cache = model.new_cache(2, n)
    pieces = [model(part, cache=cache) for part in ids.split(chunks, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_row_equals_the_row_alone_cached_or_not(variant, side, fresh_seed):
    torch.manual_seed(fresh_seed)
    model = small(variant)
    real = torch.tensor([4, 9, 1])
    order = torch.arange(9) if side == "right" else torch.arange(8, -1, -1)
    padding_mask = order < real[:, None]
    ids = torch.randint(0, 31, (3, 9))
    batch = model(ids, padding_mask=padding_mask)
    cache = model.new_cache(3, 9)
    chunked = torch.cat([
        model(ids[:, :5], padding_mask=padding_mask[:, :5], cache=cache),
        model(ids[:, 5:], padding_mask=padding_mask, cache=cache)], dim=1)
    for row in range(3):
        alone = model(ids[row][padding_mask[row]][None])[0]
        torch.testing.assert_close(batch[row][padding_mask[row]], alone)
        torch.testing.assert_close(chunked[row][padding_mask[row]], alone)
    assert torch.isfinite(batch).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_logit_depends_on_a_later_token(variant, fresh_seed):
    torch.manual_seed(fresh_seed)
    model, ids = small(variant), torch.randint(0, 31, (1, 10))
    changed = ids.clone()
    changed[0, 6] = (ids[0, 6] + 1) % 31
    difference = (model(ids) - model(changed)).abs().amax(-1)[0]
    # not always 0: which tokens share an expert's matrix product decides the order of its sums
    assert (difference[:6] < 1e-12).all() and difference[6] > 1e-6


@pytest.mark.parametrize("variant", VARIANTS)
def test_plain_path_equals_fused(variant, fresh_seed):
    torch.manual_seed(fresh_seed)
    model, ids = small(variant), torch.randint(0, 31, (2, 8))
    with paths.plain_path():
        plain = model(ids)
    torch.testing.assert_close(plain, model(ids))


def test_both_ends_do_what_they_say(fresh_seed):
    torch.manual_seed(fresh_seed)
    model, ids = small("DeepNorm, both ends"), torch.randint(0, 31, (2, 6))
    with recorder.record() as tape:
        hidden = model.hidden(ids)
    bare = 2.0 * model.tok_emb.weight[ids] + model.pos_emb.weight[:6]
    torch.testing.assert_close(
        tape["residual"][0], F.layer_norm(bare, (20,), model.emb_norm.weight, model.emb_norm.bias, 1e-5))
    torch.testing.assert_close(
        model(ids), 0.5 * (hidden @ model.tok_emb.weight.T + model.lm_head.bias))
    torch.testing.assert_close(model.last_logits(ids), model(ids)[:, -1])


def test_a_block_follows_its_formula(fresh_seed):
    torch.manual_seed(fresh_seed)
    ids = torch.randint(0, 31, (2, 7))
    for variant, formula in {
        "partial rotary, side by side": lambda b, x, f, g: x + f(b.attn_norm(x)) + g(b.ffn_norm(x)),
        "sandwich, QK-norm": lambda b, x, f, g: (
            y := x + b.attn_out_norm(f(b.attn_norm(x)))) + b.ffn_out_norm(g(b.ffn_norm(y))),
        "DeepNorm, both ends": lambda b, x, f, g: b.ffn_norm(
            6**0.25 * (y := b.attn_norm(6**0.25 * x + f(x))) + g(y)),
    }.items():
        model = small(variant)
        block, positions = model.blocks[1], torch.arange(7)
        angles = model_angles(model.config, positions)
        with recorder.record() as tape:
            model(ids)
        before, after = tape["residual"][1:3]
        want = formula(block, before, lambda h, a=block, p=positions, r=angles: a.attn(h, p, r), block.ffn)
        torch.testing.assert_close(after, want)


def test_deepnorm_starts_with_smaller_content_matrices(fresh_seed):
    sizes = dict(vocab_size=9, max_seq_len=8, d_model=64, n_layers=8, n_heads=4, n_kv_heads=4, head_dim=16,
                 ffn=Mlp(128), init=Init(0.02, 0.1, "plain"))
    torch.manual_seed(fresh_seed)
    block = GPT(ModelConfig(**sizes, residual="deepnorm")).blocks[3]
    beta = 64**-0.25
    for name, factor in {"attn.q_proj": 1, "attn.k_proj": 1, "attn.v_proj": beta, "attn.o_proj": beta,
                         "ffn.up_proj": beta, "ffn.down_proj": beta}.items():
        assert block.get_submodule(name).weight.std().item() == pytest.approx(0.1 * factor, rel=0.1)


def test_angles_that_change_with_the_length_refuse_a_cache():
    model = small("llama", position=Rope(scaling=DynamicNtk(2.0, 4)))
    with pytest.raises(ValueError, match="angles change"):
        model.new_cache(1, 8)
    with pytest.raises(ValueError, match="angles change"):
        model(torch.zeros(1, 3, dtype=torch.int64), cache=small("llama").new_cache(1, 8))


@pytest.mark.parametrize("variant", ["alibi", "llama"])
def test_bf16_on_both_paths(variant, fresh_seed):
    torch.manual_seed(fresh_seed)
    model, ids = small(variant).bfloat16(), torch.randint(0, 31, (2, 8))
    with paths.plain_path():
        plain = model(ids)
    assert plain.dtype == model(ids).dtype == torch.bfloat16
    atol = 0.1 * plain.detach().abs().max().item()
    torch.testing.assert_close(plain.float(), model(ids).float(), rtol=0.1, atol=atol)


def test_given_positions_are_used(fresh_seed):
    torch.manual_seed(fresh_seed)
    model, ids = small("gpt2"), torch.randint(0, 31, (2, 4))
    torch.testing.assert_close(model(ids, positions=torch.arange(4)), model(ids))
    assert (model(ids, positions=torch.tensor([0, 1, 2, 7])) - model(ids))[:, 3].abs().max() > 1e-3


def test_recorder_sees_every_layer_and_nothing_afterwards(fresh_seed):
    torch.manual_seed(fresh_seed)
    model, ids = small("llama"), torch.randint(0, 31, (2, 5))
    with recorder.record() as tape:
        hidden = model.hidden(ids)
    assert [w.shape for w in tape["attn_weights"]] == [(2, 4, 5, 5)] * 3
    assert len(tape["residual"]) == 4
    torch.testing.assert_close(model.final_norm(tape["residual"][-1]), hidden)
    model(ids)
    assert len(tape["residual"]) == 4


def test_bad_input_is_named():
    model = small("gpt2")
    ids = torch.zeros(2, 5, dtype=torch.int64)
    with pytest.raises(ValueError, match="max_seq_len=24"):
        model(torch.zeros(1, 25, dtype=torch.int64))
    with pytest.raises(ValueError, match="position 24"):
        model(ids, positions=torch.tensor([0, 1, 2, 3, 24]))
    resolve = inspect.unwrap(resolve_positions)  # without pytest's shape checker, as a user calls it
    for padding_mask in (torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 5, dtype=torch.int64)):
        with pytest.raises(ValueError, match="padding_mask .* True = real token"):
            resolve(ids, 24, padding_mask=padding_mask)
    with pytest.raises(ValueError, match=r"positions \(4,\)"):
        resolve(ids, 24, positions=torch.arange(4))


def test_dropout_is_for_training_only(fresh_seed):
    torch.manual_seed(fresh_seed)
    model, ids = small("gpt2", dropout=0.5), torch.randint(0, 31, (2, 5))
    assert torch.equal(model(ids), model(ids))
    model.train()
    assert not torch.equal(model(ids), model(ids))


def test_the_same_generator_gives_the_same_weights(fresh_seed):
    models = [GPT(preset("tiny"), torch.Generator().manual_seed(fresh_seed)) for _ in range(2)]
    for a, b in zip(*(m.parameters() for m in models), strict=True):
        assert torch.equal(a, b)
