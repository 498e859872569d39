r"""Prompts in front of texts: against loops, and against the base that is given the same vectors as tokens."""

from dataclasses import replace

import pytest
import torch

from minillm import tuning
from minillm.config import Ends
from minillm.inference.caches.int8 import int8_caches
from minillm.inference.caches.rolling import rolling_caches
from minillm.inference.generate import generate
from minillm.model.counting import n_trainable
from minillm.model.gpt import GPT
from minillm.training.optimizer import decay_groups
from minillm.tuning import prompts
from tests.inference.caches.models import CONFIGS, MHA, model_of
from tests.tuning.prompting import (
    EXACT,
    ids_of,
    require_frozen_base,
    require_padding_unseen,
    require_pieces_equal_whole,
)


def test_prompt_concat_puts_the_prompt_before_every_row(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    k, batch_size, seq_len, width = torch.randint(1, 7, (4,), generator=generator).tolist()
    prompt = torch.randn(k, width, generator=generator)
    x = torch.randn(batch_size, seq_len, width, generator=generator, dtype=torch.float64)
    padding_mask = torch.rand(batch_size, seq_len, generator=generator) < 0.5
    both, mask = prompts.prompt_concat(prompt, x, padding_mask)
    assert both.shape == (batch_size, k + seq_len, width) and both.dtype == x.dtype and mask.dtype == torch.bool
    for row in range(batch_size):
        for place in range(k + seq_len):
            want = prompt[place].double() if place < k else x[row, place - k]
            assert torch.equal(both[row, place], want)
            assert bool(mask[row, place]) == (place < k or bool(padding_mask[row, place - k]))


@pytest.mark.parametrize("kind", CONFIGS)
def test_vectors_of_tokens_are_as_good_as_the_tokens(fresh_seed, kind):
    generator, model = torch.Generator().manual_seed(fresh_seed), model_of(kind)
    length = int(torch.randint(1, 6, (), generator=generator))
    first, ids = ids_of(generator, length), ids_of(generator, 2, 9)
    tuned = tuning.prompt_tuning(model, length, first.tolist())
    both = torch.cat([first.expand(2, -1), ids], dim=1)
    torch.testing.assert_close(tuned(ids), model(both)[:, length:], **EXACT)
    torch.testing.assert_close(tuned.hidden(ids), model.hidden(both)[:, length:], **EXACT)
    torch.testing.assert_close(tuned.last_logits(ids), model(both)[:, -1], **EXACT)
    later = torch.arange(3, 12)  # positions are counted without the prompt, and the prompt's begin at 0
    want = model(both, positions=torch.cat([torch.arange(length), later + length]))[:, length:]
    torch.testing.assert_close(tuned(ids, positions=later), want, **EXACT)
    require_pieces_equal_whole(tuned, generator)


@pytest.mark.parametrize("kind", ["GQA", "MLA", "GQA, learned positions", "GQA, window, ALiBi", "MHA, T5 bias"])
def test_padding_goes_between_a_prompt_and_its_text(fresh_seed, kind):
    generator = torch.Generator().manual_seed(fresh_seed)
    require_padding_unseen(tuning.prompt_tuning(model_of(kind), 3, generator=generator), generator)


def test_vectors_are_scaled_and_normalized_like_those_of_tokens(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    config = replace(MHA, ends=Ends(embedding_scale=3.0, embedding_norm=True, logit_scale=0.5), dropout=0.4)
    model = GPT(config, generator).double().eval()
    first, ids = ids_of(generator, 4), ids_of(generator, 2, 7)
    want = model(torch.cat([first.expand(2, -1), ids], dim=1))[:, 4:]
    torch.testing.assert_close(tuning.prompt_tuning(model, 4, first.tolist())(ids), want, **EXACT)


def test_only_the_prompt_is_trained_and_nothing_pulls_it_to_zero(fresh_seed):
    generator, model = torch.Generator().manual_seed(fresh_seed), model_of("GQA")
    tuned = tuning.prompt_tuning(model, 5, generator=generator)
    require_frozen_base(tuned, model, generator)
    assert n_trainable(tuned) == 5 * model.config.d_model
    assert tuned.small_names[0] not in decay_groups(tuned)[0]
    table = {tuple(row) for row in model.tok_emb.weight.tolist()}
    assert all(tuple(row) in table for row in tuned.prompt().tolist()), "it begins with vectors of tokens"


def test_other_caches_hold_the_prompt_too(fresh_seed):
    generator, model = torch.Generator().manual_seed(fresh_seed), model_of("window")
    tuned = tuning.prompt_tuning(model, 4, generator=generator)
    ids = ids_of(generator, 2, 12)
    caches = rolling_caches(tuned, 2)
    pieces = [tuned(piece, cache=caches) for piece in ids.split([5, 1, 6], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), tuned(ids), **EXACT)
    assert len(int8_caches(tuned, 2, 16)) == 2


def test_a_text_may_be_as_much_shorter_as_the_prompt_is_long(fresh_seed):
    generator, model = torch.Generator().manual_seed(fresh_seed), model_of("GQA, learned positions")
    tuned = tuning.prompt_tuning(model, 15, generator=generator)
    assert tuned.config.max_seq_len == model.config.max_seq_len - 15 == 25
    assert generate(tuned, ids_of(generator, 1, 5), 20, temperature=0.0).shape == (1, 25)
    with pytest.raises(ValueError, match="max_seq_len=25"):
        tuned(ids_of(generator, 1, 26))
    cache = tuned.new_cache(2, 9)
    tuned(ids_of(generator, 2, 4), cache=cache)
    with pytest.raises(ValueError, match=r"use bool \(2, 5\)"):  # the prompt is not the caller's to count
        tuned(ids_of(generator, 2, 1), torch.ones(2, 20, dtype=torch.bool), cache=cache)


def test_the_beginning_is_drawn_or_repeated(fresh_seed):
    model = model_of("GQA")
    one, same = (tuning.prompt_tuning(model, 9, generator=torch.Generator().manual_seed(fresh_seed)) for _ in range(2))
    assert torch.equal(one.prompt(), same.prompt())
    rows = tuning.prompt_tuning(model, 5, [3, 7]).prompt()
    assert torch.equal(rows, model.tok_emb.weight[torch.tensor([3, 7, 3, 7, 3])])


def test_bad_arguments_are_named():
    model = model_of("GQA")
    for arguments, told in (({"length": 0}, "length=0"), ({"length": 2.0}, "length=2.0"),
                            ({"length": 40}, "less than max_seq_len=40"), ({"init_ids": []}, r"init_ids=\[\]"),
                            ({"init_ids": [3, 11]}, r"init_ids=\[11")):
        with pytest.raises(ValueError, match=told):
            tuning.prompt_tuning(model, **arguments)
    with pytest.raises(ValueError, match="PromptedModel"):
        tuning.prompt_tuning(tuning.prompt_tuning(model, 3), 3)
