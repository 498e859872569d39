r"""Costs by formula against costs counted on layers that run."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from minillm.layers import attention_cost, flash, heads, infini, linear_attention, mla, paths, rwkv
from minillm.layers.attention import Attention
from minillm.layers.attention_cost import KINDS, AttentionSizes
from minillm.layers.cache import KVCache

EVERY = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def sizes(fresh_seed):
    torch.manual_seed(fresh_seed)
    head_dim, n_kv_heads = 2 * int(torch.randint(2, 6, ())), int(torch.randint(2, 4, ()))
    return AttentionSizes(
        d_model=int(torch.randint(10, 40, ())), n_heads=2 * n_kv_heads, head_dim=head_dim, n_kv_heads=n_kv_heads,
        kv_rank=int(torch.randint(5, 20, ())), rope_dim=4, window=int(torch.randint(3, 9, ())), segment_len=5)


def layer_of(kind: str, s: AttentionSizes) -> nn.Module:
    r"""The real layer."""
    if kind == "MLA":
        return mla.MultiHeadLatentAttention(s.d_model, s.n_heads, s.head_dim, s.rope_dim, s.head_dim, s.kv_rank)
    if kind == "linear":
        return linear_attention.LinearAttention(s.d_model, s.n_heads, s.head_dim)
    if kind == "RWKV":
        return rwkv.RwkvTimeMix(s.d_model)
    if kind == "Infini":
        return infini.InfiniAttention(s.d_model, s.n_heads, s.head_dim, s.segment_len)
    n_kv_heads = {"GQA": s.n_kv_heads, "MQA": 1}.get(kind, s.n_heads)
    return Attention(s.d_model, s.n_heads, n_kv_heads, s.head_dim)


@EVERY
def test_weights_are_those_of_the_layer(kind, sizes):
    counted = sum(parameter.numel() for parameter in layer_of(kind, sizes).parameters())
    assert attention_cost.attention_weights_count(kind, sizes) == counted


def filled_cache(kind: str, layer: nn.Module, s: AttentionSizes, n_tokens: int):
    r"""A cache after n_tokens; of the window only what it still sees."""
    if kind == "window":
        n_tokens = min(n_tokens, s.window - 1)
    if kind == "MLA":
        cache = layer.new_cache(1, n_tokens + 1)
    else:
        cache = KVCache(1, layer.n_kv_heads, n_tokens + 1, s.head_dim)
    if n_tokens:
        with torch.no_grad():
            layer(torch.randn(1, n_tokens, s.d_model), torch.arange(n_tokens), None, cache)
    return cache


def floats_in(held: object) -> int:
    r"""Numbers in the floating-point tensors of a cache or a state."""
    parts = held if isinstance(held, tuple) else vars(held).values()
    return sum(x.numel() for x in parts if isinstance(x, torch.Tensor) and x.is_floating_point())


@pytest.mark.parametrize("kind", ["MHA", "GQA", "MQA", "MLA", "window"])
@pytest.mark.parametrize("kv_len", [1, 2, 7, 20])
def test_a_step_with_a_cache_costs_and_keeps_what_is_counted(kind, kv_len, sizes):
    layer = layer_of(kind, sizes)
    cache = filled_cache(kind, layer, sizes, kv_len - 1)
    assert floats_in(cache) == attention_cost.kept_floats(kind, sizes, kv_len)
    with torch.no_grad(), paths.plain_path(), FlopCounterMode(display=False) as counter:
        layer(torch.randn(1, 1, sizes.d_model), torch.tensor([kv_len - 1]), None, cache)
    assert counter.get_total_flops() == attention_cost.step_flops(kind, sizes, kv_len)


@pytest.mark.parametrize("kind", ["linear", "Infini"])
@pytest.mark.parametrize("kv_len", [1, 5, 12])
def test_a_step_with_a_memory_costs_and_keeps_what_is_counted(kind, kv_len, sizes):
    s = sizes
    shape = (1, s.n_heads, 1, s.head_dim)
    q, k, v = torch.randn(3, *shape)
    memory, normalizer = torch.zeros(1, s.n_heads, s.head_dim, s.head_dim), torch.zeros(1, s.n_heads, s.head_dim)
    n_local = 0 if kind == "linear" else (kv_len - 1) % s.segment_len + 1
    local = torch.randn(1, s.n_heads, n_local, s.head_dim)
    with FlopCounterMode(display=False) as counter:
        written = linear_attention.memory_write(memory, normalizer, k, v)
        linear_attention.memory_read(*written, q)
        _ = (q @ local.mT) @ local
    projections = 2 * sum(m.weight.numel() for m in layer_of(kind, s).modules() if isinstance(m, nn.Linear))
    assert attention_cost.step_flops(kind, s, kv_len) == projections + counter.get_total_flops()
    held = floats_in((memory, normalizer)) + (2 * local.numel() if n_local % s.segment_len else 0)
    assert attention_cost.kept_floats(kind, s, kv_len) == held


def test_rwkv_keeps_its_state_and_one_token(sizes):
    x, w = torch.randn(2, sizes.d_model), torch.rand(2, sizes.d_model)
    _, state = rwkv.wkv_step(x[0], x[1], w[0], w[1])
    for kv_len in (1, 1000):
        assert attention_cost.kept_floats("RWKV", sizes, kv_len) == floats_in((*state, x[0]))
        with FlopCounterMode(display=False) as counter:
            layer_of("RWKV", sizes)(torch.randn(1, 1, sizes.d_model), torch.arange(1))
        assert attention_cost.step_flops("RWKV", sizes, kv_len) == counter.get_total_flops()


class Largest(TorchDispatchMode):
    r"""The size of the largest floating-point tensor that any operation gives; views of parameters do not count."""

    def __init__(self, ignored):
        super().__init__()
        self.numbers, self.ignored = 0, {p.data_ptr() for p in ignored}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for x in out if isinstance(out, (list, tuple)) else [out]:
            if not isinstance(x, torch.Tensor) or not x.is_floating_point():
                continue
            if x.untyped_storage().data_ptr() not in self.ignored:
                self.numbers = max(self.numbers, x.numel())
        return out


@EVERY
@pytest.mark.parametrize("seq_len", [40, 150])
def test_the_largest_tensor_is_counted(kind, seq_len, sizes):
    layer = layer_of(kind, sizes)
    x = torch.randn(1, seq_len, sizes.d_model)
    with torch.no_grad(), paths.plain_path(), Largest(layer.parameters()) as largest:
        if kind == "Infini":  # the layer trains by masks; the recurrence is what needs little
            q, k, v = (heads.split_heads(p(x), layer.n_heads) for p in (layer.q_proj, layer.k_proj, layer.v_proj))
            out = infini.infini_attention(q, k, v, layer.gate, sizes.segment_len)
            layer.o_proj(heads.merge_heads(out))
        else:
            layer(x, torch.arange(seq_len))
    assert largest.numbers == attention_cost.largest_tensor(kind, sizes, seq_len)


def test_tiles_make_no_large_table(sizes):
    s, seq_len = sizes, 150
    q, k, v = torch.randn(3, 1, s.n_heads, seq_len, s.head_dim)
    with torch.no_grad(), Largest([]) as largest:
        flash.flash_attention(q, k, v, tile_len=16)
    wanted = attention_cost.largest_tensor("MHA", s, seq_len, tile_len=16)
    assert largest.numbers <= wanted
    assert wanted < attention_cost.largest_tensor("MHA", s, seq_len)


@pytest.mark.unchecked
def test_an_unknown_kind_is_named(sizes):
    with pytest.raises(ValueError, match="kind='flash'"):
        attention_cost.attention_weights_count("flash", sizes)
