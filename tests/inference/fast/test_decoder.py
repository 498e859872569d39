r"""The fast path against the model itself: the same logits, the same cache, and the model's own way for all else."""

import copy

import pytest
import torch

from minillm.config import Alibi, AttentionOptions, DynamicNtk, Ends, Mlp, Norm, Rope, preset
from minillm.inference.beam import beam_search
from minillm.inference.caches.int8 import Int8Cache
from minillm.inference.fast import products, ways
from minillm.inference.fast.choose import fastest
from minillm.inference.fast.decoder import FastDecoder, normalized
from minillm.inference.fast.shape import slow_part
from minillm.inference.generate import generate
from minillm.layers import norms, paths, recorder
from minillm.layers.cache import KVCache
from minillm.model.gpt import GPT
from minillm.model.masked_lm import MaskedLM
from tests.inference.fast.models import WEIGHTS, in_weights, small_llama


@pytest.fixture
def steps(monkeypatch):
    r"""How many steps went the fast way."""
    taken = []
    step = FastDecoder._step
    monkeypatch.setattr(FastDecoder, "_step", lambda self, *args: taken.append(len(args[0])) or step(self, *args))
    return taken


@pytest.fixture
def plain_products(monkeypatch):
    r"""Each layer's own forward and nothing else: what is left between the paths is the order of sums."""
    monkeypatch.setattr(ways, "WAYS", (ways.own_forward,))
    monkeypatch.setattr(products, "_chosen", {})


def written_steps(decode, new_cache, ids, n_prompt):
    r"""Logits after a prompt and then after each token, and the cache."""
    cache = new_cache(len(ids), ids.shape[1])
    with torch.inference_mode():
        out = [decode(ids[:, :n_prompt], cache=cache)[:, -1:].float()]
        out += [decode(one, cache=cache).float() for one in ids[:, n_prompt:].split(1, dim=1)]
    return torch.cat(out, dim=1), cache


def scale_free_error(got, want):
    return float((got - want).abs().max() / want.abs().max())


@pytest.mark.parametrize("n_rows", [1, 3])
def test_steps_give_the_logits_of_the_model(n_rows, fresh_seed, steps):
    for seed in range(fresh_seed, fresh_seed + 4):
        model = small_llama(seed)
        ids = torch.randint(0, model.config.vocab_size, (n_rows, 17))
        fast = FastDecoder(model)
        got, cache = written_steps(fast, fast.new_cache, ids, 5)
        want, expected = written_steps(model, model.new_cache, ids, 5)
        assert scale_free_error(got, want) < 1e-4 and got.dtype == torch.float32, seed
        whole = model(ids)[:, 4:].detach()
        assert scale_free_error(got, whole) < 1e-4, seed
        for ours, theirs in zip(cache, expected, strict=True):
            assert ours.length == theirs.length == 17
            k, v, positions = zip(ours.memory(), theirs.memory(), strict=True)
            assert torch.equal(*positions)
            assert scale_free_error(*k) < 1e-4 and scale_free_error(*v) < 1e-4
    assert steps == [n_rows] * 48


@pytest.mark.parametrize("weights", [each for each in WEIGHTS if each != "fp32"])
def test_other_weights_give_what_the_same_numbers_give_in_float32(weights, fresh_seed, plain_products):
    for seed in range(fresh_seed, fresh_seed + 3):
        rough = in_weights(small_llama(seed), weights)
        exact = copy.deepcopy(rough)  # the same stored numbers; activations in float32
        if weights in ("fp16", "bf16"):
            exact = exact.float()
        else:
            for module in exact.modules():
                if hasattr(module, "dtype"):
                    module.dtype = torch.float32
                    module.bias = None if module.bias is None else module.bias.float()
            for parameter in exact.parameters():
                parameter.data = parameter.data.float()
        ids = torch.randint(0, rough.config.vocab_size, (1, 12))
        fast = FastDecoder(exact)
        got, _ = written_steps(fast, fast.new_cache, ids, 4)
        want, _ = written_steps(exact, exact.new_cache, ids, 4)
        assert scale_free_error(got, want) < 1e-4, seed


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("n_rows", [1, 2])
def test_every_type_of_weights_decodes_by_the_quickest_products(weights, n_rows, fresh_seed, steps, monkeypatch):
    monkeypatch.setattr(products, "TRIAL_FROM", 0)
    monkeypatch.setattr(products, "_chosen", {})
    model = in_weights(small_llama(fresh_seed), weights)
    ids = torch.randint(0, model.config.vocab_size, (n_rows, 9))
    fast = FastDecoder(model)
    got, _ = written_steps(fast, fast.new_cache, ids, 4)
    want, _ = written_steps(model, model.new_cache, ids, 4)
    assert scale_free_error(got, want) < (1e-4 if weights == "fp32" else 0.25)  # rounded in many places, in two ways
    assert steps == [n_rows] * 5
    got, _ = written_steps(fast, model.new_cache, ids, 4)  # a cache in the model's type
    assert scale_free_error(got, want) < (1e-4 if weights == "fp32" else 0.25)


def test_the_two_paths_take_turns_on_one_cache(fresh_seed, steps):
    model = small_llama(fresh_seed)
    ids = torch.randint(0, model.config.vocab_size, (2, 20))
    fast = FastDecoder(model)
    cache, got = fast.new_cache(2, 20), []
    with torch.inference_mode():
        for decode, new in zip((fast, model, fast, fast, model, fast, fast), ids.split([4, 1, 1, 5, 2, 1, 6], 1),
                               strict=True):
            got.append(decode(new, cache=cache))
        want = model(ids)
    assert scale_free_error(torch.cat(got, dim=1), want) < 1e-4 and steps == [2, 2]


def test_generation_and_beam_search_write_the_same(fresh_seed):
    model = small_llama(fresh_seed)
    fast = fastest(model, kernel="none")
    ids = torch.randint(0, model.config.vocab_size, (3, 4))
    for rows in (ids, ids[:1]):
        written = [generate(each, rows, 20, temperature=0.0) for each in (model, fast)]
        close = model(written[0])[:, 3:-1].detach().topk(2).values.diff().abs().min() < 1e-3
        assert close or torch.equal(*written)
    found = [beam_search(each, ids[:1], 5, n_beams=2)[1] for each in (model, fast)]
    assert torch.allclose(*found, atol=1e-3)


def test_padding_takes_the_way_of_the_model(fresh_seed, steps):
    model = small_llama(fresh_seed)
    fast = FastDecoder(model)
    ids = torch.randint(0, model.config.vocab_size, (2, 6))
    mask = torch.arange(6) >= torch.tensor([[0], [2]])
    one = torch.randint(0, model.config.vocab_size, (2, 1))
    with torch.inference_mode():
        caches = [each.new_cache(2, 9) for each in (model, fast)]
        for more in (dict(padding_mask=mask), dict(padding_mask=torch.ones(2, 7, dtype=torch.bool)), {}):
            new = ids if caches[0][0].length == 0 else one
            wanted = model(new, cache=caches[0], **more)
            assert torch.equal(fast(new, cache=caches[1], **more), wanted)  # the last: padding is in the cache alone
    assert steps == []
    greedy = [generate(each, ids, 6, temperature=0.0, padding_mask=mask) for each in (model, fast)]
    assert torch.equal(*greedy)


def test_whatever_is_not_a_plain_step_takes_the_way_of_the_model(fresh_seed, steps):
    model = small_llama(fresh_seed, position=Rope())
    fast = FastDecoder(model)
    ids = torch.randint(0, model.config.vocab_size, (1, 4))
    one = ids[:, :1]

    def after_prompt(decode, cache=None, **more):
        cache = cache or decode.new_cache(1, 12)
        with torch.no_grad():
            decode(ids, cache=cache)
            return decode(one, cache=cache, **more)

    place = torch.tensor([9])
    assert torch.equal(after_prompt(fast, positions=place), after_prompt(model, positions=place))
    with paths.plain_path():
        assert torch.equal(after_prompt(fast), after_prompt(model))
    with recorder.record("attn_weights") as tape:
        after_prompt(fast)
    assert len(tape["attn_weights"]) == 2 * model.config.n_layers
    heads = (model.config.n_kv_heads, model.config.head_dim)
    caches = [[Int8Cache(1, 12, (heads, heads)) for _ in model.blocks] for _ in range(2)]
    assert torch.equal(after_prompt(fast, caches[0]), after_prompt(model, caches[1]))
    cache = fast.new_cache(1, 12)
    with torch.no_grad():
        fast(ids, cache=cache)
    fast(one, cache=cache).sum().backward()
    assert model.blocks[0].attn.q_proj.weight.grad is not None
    with torch.no_grad():
        assert torch.equal(fast(one), model(one))
    assert steps == []


def test_refusals_are_those_of_the_model(fresh_seed):
    model = small_llama(fresh_seed)
    fast = FastDecoder(model)
    ids = torch.randint(0, model.config.vocab_size, (1, 4))
    with torch.inference_mode():
        full = fast.new_cache(1, 4)
        fast(ids, cache=full)
        with pytest.raises(ValueError, match="capacity=4"):
            fast(ids[:, :1], cache=full)
        long = fast.new_cache(1, 50)
        fast(ids.repeat(1, 10), cache=long)
        with pytest.raises(ValueError, match="max_seq_len=40"):
            fast(ids[:, :1], cache=long)
        with pytest.raises(ValueError, match="k "):
            fast(ids[:, :1].expand(2, 1), cache=fast.new_cache(1, 9))


def test_the_cache_is_an_ordinary_one_in_float32():
    fast = FastDecoder(small_llama(0).bfloat16())
    for cache in fast.new_cache(2, 7):
        assert type(cache) is KVCache and cache.capacity == 7 and cache.memory()[0].dtype == torch.float32
    assert fast.new_cache(1, 3, torch.bfloat16)[0].memory()[1].dtype == torch.bfloat16
    assert fast.config is fast.model.config and next(fast.parameters()) is next(fast.model.parameters())


def test_the_model_and_later_calls_are_left_alone(fresh_seed):
    model = small_llama(fresh_seed)
    before = copy.deepcopy(model.state_dict())
    fast = FastDecoder(model)
    ids = torch.randint(0, model.config.vocab_size, (1, 8))
    first, _ = written_steps(fast, fast.new_cache, ids, 3)
    kept = first.clone()
    again, _ = written_steps(fast, fast.new_cache, ids, 3)
    assert torch.equal(first, kept) and torch.equal(first, again)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_norm_in_three_operations(fresh_seed):
    torch.manual_seed(fresh_seed)
    x, weight, eps = torch.randn(3, 20), torch.randn(20), 0.3
    stream = torch.cat([x, torch.full((3, 1), (20 * eps) ** 0.5)], dim=1)
    assert torch.allclose(normalized(x, stream, weight * 20**0.5), norms.rms_norm(x, weight, eps), atol=1e-5)


def test_models_of_other_shapes_stay_as_they_are():
    small = dict(vocab_size=9, d_model=16, n_heads=2, n_kv_heads=1, head_dim=8, n_layers=1, max_seq_len=8)
    llama = preset("tiny-llama", **small)
    assert slow_part(GPT(llama)) is None
    for changes, said in (
        (dict(residual="parallel"), "residual='parallel'"), (dict(position=Alibi()), r"Alibi\(\)"),
        (dict(position=Rope(scaling=DynamicNtk(2.0, 4))), "DynamicNtk"), (dict(ffn=Mlp(8)), "ffn is a MLP"),
        (dict(norm=Norm("layer")), "LayerNorm"), (dict(attention=AttentionOptions(window=4)), "mask_rule"),
        (dict(attention=AttentionOptions(qk_norm=True)), "q_norm"), (dict(ends=Ends(embedding_norm=True)), "emb_norm"),
    ):
        model = GPT(preset("tiny-llama", **small | changes))
        assert fastest(model) is model
        with pytest.raises(ValueError, match=f"model: .*{said}.*use the model itself"):
            FastDecoder(model)
    changed = GPT(llama)
    changed.blocks[0].attn.q_proj = torch.nn.Sequential(changed.blocks[0].attn.q_proj)
    assert "attn.q_proj is a Sequential" in slow_part(changed)
    assert "MaskedLM" in slow_part(MaskedLM(preset("tiny", **small))) and "list" in slow_part([])
    with pytest.raises(ValueError, match="kernel='fast'"):
        fastest(GPT(llama), kernel="fast")
