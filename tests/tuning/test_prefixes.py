r"""Prefixes in front of keys and values: against loops, the algebra of attention, and the base that reads a text."""

import pytest
import torch

from minillm import tuning
from minillm.inference.caches.block_pool import block_pool
from minillm.inference.caches.paged import paged_caches
from minillm.inference.caches.rolling import rolling_caches
from minillm.layers import masks, recorder
from minillm.model.counting import n_trainable
from minillm.training.recompute import recomputed_blocks
from minillm.tuning import prefixes
from minillm.tuning.encoders import Vectors
from minillm.tuning.prefixes import PrefixReading
from tests.inference.caches.models import CONFIGS, model_of
from tests.tuning.prompting import (
    EXACT,
    ids_of,
    require_frozen_base,
    require_padding_unseen,
    require_pieces_equal_whole,
)

WITH_HEADS = [kind for kind in CONFIGS if kind != "MLA"]
TO_THE_WHOLE_PAST = ["MHA", "GQA", "MQA", "GQA, learned positions", "MHA, no positions"]


def test_prefix_kv_joins_along_the_tokens(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    batch_size, n_kv_heads, seq_len, head_dim, length = torch.randint(1, 6, (5,), generator=generator).tolist()
    k, v = torch.randn(2, batch_size, n_kv_heads, seq_len, head_dim, generator=generator)
    prefix_k, prefix_v = torch.randn(2, n_kv_heads, length, head_dim, generator=generator)
    for positions in (torch.arange(3, 3 + seq_len), torch.randint(-1, 9, (batch_size, seq_len), generator=generator)):
        k_all, v_all, all_positions = prefixes.prefix_kv(k, v, prefix_k, prefix_v, positions)
        assert all_positions.shape == (*positions.shape[:-1], length + seq_len)
        assert torch.equal(all_positions[..., length:], positions) and not all_positions[..., :length].any()
        for whole, own, prefix in ((k_all, k, prefix_k), (v_all, v, prefix_v)):
            assert torch.equal(whole[:, :, length:], own)
            assert all(torch.equal(row[:, :length], prefix) for row in whole)


def test_a_prefix_mixes_its_answer_into_the_own_one_and_changes_nothing_else(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    seq_len, length, head_dim = torch.randint(2, 7, (3,), generator=generator).tolist()
    q, k, v = torch.randn(3, 2, 4, seq_len, head_dim, generator=generator, dtype=torch.float64)
    reading = PrefixReading(Vectors(torch.randn(length, 2 * 2 * head_dim, generator=generator).double()), n_kv_heads=2)
    positions = torch.arange(seq_len)
    with recorder.record("attn_weights") as tape:
        out = reading(q, k, v, positions, positions, masks.causal_mask(positions, positions))
    prefix_k, prefix_v = reading.key_values()
    for row in range(2):
        for head in range(4):
            own_k, own_v = prefix_k[head // 2], prefix_v[head // 2]  # two query heads share a key/value head
            for place in range(seq_len):
                query = q[row, head, place] / head_dim**0.5
                on_prefix, on_tokens = (own_k @ query).exp(), (k[row, head, : place + 1] @ query).exp()
                share = on_prefix.sum() / (on_prefix.sum() + on_tokens.sum())  # lambda
                of_prefix = on_prefix @ own_v / on_prefix.sum()
                of_tokens = on_tokens @ v[row, head, : place + 1] / on_tokens.sum()
                torch.testing.assert_close(out[row, head, place], (1 - share) * of_tokens + share * of_prefix, **EXACT)
                weights = tape["attn_weights"][0][row, head, place, length : length + place + 1]
                torch.testing.assert_close(weights / weights.sum(), on_tokens / on_tokens.sum(), **EXACT)


@pytest.mark.parametrize("kind", TO_THE_WHOLE_PAST)
def test_keys_and_values_of_a_text_are_as_good_as_the_text(fresh_seed, kind):
    generator, model = torch.Generator().manual_seed(fresh_seed), model_of(kind)
    length = int(torch.randint(1, 6, (), generator=generator))
    first, ids = ids_of(generator, length), ids_of(generator, 2, 9)
    tuned = tuning.p_tuning_v2(model, length, first.tolist())
    want = model(torch.cat([first.expand(2, -1), ids], dim=1))[:, length:]
    torch.testing.assert_close(tuned(ids, positions=torch.arange(length, length + 9)), want, **EXACT)


@pytest.mark.parametrize("kind", WITH_HEADS)
def test_cached_and_padded_texts_see_the_same_prefix(fresh_seed, kind):
    generator, model = torch.Generator().manual_seed(fresh_seed), model_of(kind)
    tuned = tuning.p_tuning_v2(model, 3, generator=generator)
    require_pieces_equal_whole(tuned, generator)
    require_padding_unseen(tuned, generator)
    assert tuned.config == model.config, "the prefix takes no positions"


@pytest.mark.parametrize("kind", ["window", "GQA, window, ALiBi", "MHA, T5 bias"])
def test_neither_window_nor_bias_reaches_the_prefix(fresh_seed, kind):
    generator, model = torch.Generator().manual_seed(fresh_seed), model_of(kind)
    tuned = tuning.p_tuning_v2(model, 2, generator=generator)
    with torch.no_grad(), recorder.record("attn_weights") as tape:
        for module in tuned.modules():
            if isinstance(module, Vectors):
                module.table.weight.zero_()  # all scores of the prefix are then 0
        tuned(ids_of(generator, 2, 20))
    with recorder.record("attn_weights") as plain:
        model(ids_of(torch.Generator().manual_seed(fresh_seed), 2, 20))
    for weights in tape["attn_weights"]:
        assert weights.shape[-1] == 22 and bool((weights[..., :2] > 0).all())
        torch.testing.assert_close(weights[..., 0], weights[..., 1], **EXACT)
    assert all(weights.shape[-1] == 20 for weights in plain["attn_weights"]), "the base has no prefix"


def test_other_caches_hold_the_tokens_alone(fresh_seed):
    generator, model = torch.Generator().manual_seed(fresh_seed), model_of("window")
    tuned, ids = tuning.prefix_tuning(model, 4, generator=generator), ids_of(generator, 2, 12)
    whole = tuned(ids)
    for caches in (rolling_caches(tuned, 2), paged_caches(tuned, 2, block_pool(tuned, 8, block_len=4))):
        pieces = [tuned(piece, cache=caches) for piece in ids.split([5, 1, 6], dim=1)]
        torch.testing.assert_close(torch.cat(pieces, dim=1), whole, **EXACT)


@pytest.mark.parametrize("width", [None, 7])
def test_finished_prefixes_say_the_same_without_the_network(fresh_seed, width):
    generator, model = torch.Generator().manual_seed(fresh_seed), model_of("GQA")
    tuned = tuning.prefix_tuning(model, 5, width, generator)
    require_frozen_base(tuned, model, generator)
    finished, ids = tuning.finished(tuned), ids_of(generator, 2, 10)
    torch.testing.assert_close(finished(ids), tuned(ids), **EXACT)
    config = model.config
    n_stored = n_trainable(finished)
    assert n_stored == 2 * config.n_layers * 5 * config.n_kv_heads * config.head_dim
    assert (finished.card.method, finished.card.settings) == ("p_tuning_v2", {"length": 5})
    assert len(finished.small_names) == config.n_layers
    require_frozen_base(finished, model, generator)
    assert tuning.finished(finished) is finished


def test_recomputed_blocks_give_the_prefix_the_same_gradients(fresh_seed):
    generator, model = torch.Generator().manual_seed(fresh_seed), model_of("GQA")
    tuned, ids, grads = tuning.prefix_tuning(model, 3, generator=generator), ids_of(generator, 2, 8), []
    for active in (False, True):
        with recomputed_blocks(tuned, active):
            tuned(ids).square().mean().backward()
        grads.append({name: each.grad for name, each in tuned.named_parameters() if each.requires_grad})
        tuned.zero_grad(set_to_none=True)
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, **EXACT)


def test_a_second_prefix_stands_before_the_first(fresh_seed):
    generator, model = torch.Generator().manual_seed(fresh_seed), model_of("GQA")
    twice = tuning.p_tuning_v2(tuning.p_tuning_v2(model, 3, generator=generator), 2, generator=generator)
    require_pieces_equal_whole(twice, generator)
    with recorder.record("attn_weights") as tape:
        twice(ids_of(generator, 1, 4))
    assert [weights.shape[-1] for weights in tape["attn_weights"]] == [9, 9]
    assert [step.method for step in twice.card.steps()] == ["p_tuning_v2", "p_tuning_v2"]


def test_bad_arguments_are_named():
    for method in (tuning.prefix_tuning, tuning.p_tuning_v2):
        with pytest.raises(ValueError, match="length=0"):
            method(model_of("GQA"), 0)
        with pytest.raises(ValueError, match="MultiHeadLatentAttention"):
            method(model_of("MLA"), 3)
    with pytest.raises(ValueError, match="encoder_width=0"):
        tuning.prefix_tuning(model_of("GQA"), 3, 0)
    with pytest.raises(ValueError, match="init_ids"):
        tuning.p_tuning_v2(model_of("GQA"), 3, [])
