r"""Vectors inside of texts: against lists, against the base given tokens there, and with a discarded encoder."""

import pytest
import torch

from minillm import tuning
from minillm.inference.beam import beam_search
from minillm.inference.generate import generate
from minillm.model.counting import n_trainable
from minillm.tuning.encoders import PromptEncoder
from minillm.tuning.templates import Template, weave
from tests.inference.caches.models import model_of
from tests.tuning.prompting import (
    EXACT,
    ids_of,
    require_frozen_base,
    require_padding_unseen,
    require_pieces_equal_whole,
)


def drawn_template(generator: torch.Generator) -> tuple[tuple[int, ...], int]:
    r"""One to three groups of up to three vectors, at least one of them not empty; a gap of 1 to 4."""
    n_groups, gap = int(torch.randint(1, 4, (), generator=generator)), int(torch.randint(1, 5, (), generator=generator))
    sizes = torch.randint(0, 4, (n_groups,), generator=generator).tolist()
    return (*sizes[:-1], sizes[-1] + 1), gap


def written_out(text: list, vectors: list, sizes: tuple[int, ...], gap: int) -> tuple[list, list[int]]:
    r"""A whole text with its vectors, and where the answer to each token is found; lists alone."""
    left, row, columns = list(vectors), [], []
    groups = [[left.pop(0) for _ in range(size)] for size in sizes]
    row += groups[0]
    for count, token in enumerate(text, start=1):
        row.append(token)
        if count % gap == 0 and count // gap < len(groups):
            row += groups[count // gap]
        columns.append(len(row) - 1)
    return row, columns


def test_weave_places_vectors_as_lists_do(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    sizes, gap = drawn_template(generator)
    places = torch.tensor(Template(sizes, gap).places())
    widths = torch.randint(1, 13, (3,), generator=generator).tolist()
    seq_len = max(widths) + int(torch.randint(0, 3, (), generator=generator))
    x, prompt = torch.randn(3, seq_len, 2, generator=generator), torch.randn(len(places), 2, generator=generator)
    indices = torch.stack([torch.arange(seq_len) - seq_len + width for width in widths]).clamp(min=-1)
    both, positions, columns = weave(prompt, x, indices, places)
    longest = 0
    for row, width in enumerate(widths):
        text = x[row, seq_len - width :].tolist()
        want, answers = written_out(text, prompt.tolist(), sizes, gap)
        longest = max(longest, len(want))
        assert both[row, -len(want) :].tolist() == want
        assert positions[row].tolist() == [-1] * (both.shape[1] - len(want)) + [*range(len(want))]
        found = columns[row, seq_len - width :] - (both.shape[1] - len(want))
        assert found.tolist() == answers
    assert both.shape[1] == longest


@pytest.mark.parametrize("kind", ["GQA", "MLA", "GQA, learned positions", "GQA, window, ALiBi", "MHA, T5 bias"])
def test_vectors_of_tokens_are_as_good_as_the_tokens_there(fresh_seed, kind):
    generator, model = torch.Generator().manual_seed(fresh_seed), model_of(kind)
    sizes, gap = drawn_template(generator)
    virtual = ids_of(generator, sum(sizes)).tolist()
    tuned = tuning.p_tuning(model, sizes, gap, encoder=None, init_ids=virtual)
    ids = ids_of(generator, 2, 11)
    for row, logits in zip(ids.tolist(), tuned(ids), strict=True):
        whole, columns = written_out(row, virtual, sizes, gap)
        torch.testing.assert_close(logits, model(torch.tensor([whole]))[0, columns], **EXACT)
    require_pieces_equal_whole(tuned, generator)
    require_padding_unseen(tuned, generator)


@pytest.mark.parametrize("encoder", ["lstm", "mlp", None])
def test_finished_models_say_the_same_without_the_encoder(fresh_seed, encoder):
    generator, model = torch.Generator().manual_seed(fresh_seed), model_of("GQA")
    tuned = tuning.p_tuning(model, (2, 1), 3, encoder, generator=generator)
    require_frozen_base(tuned, model, generator)
    ids, n_before = ids_of(generator, 2, 10), sum(each.numel() for each in tuned.parameters())
    finished = tuning.finished(tuned)
    torch.testing.assert_close(finished(ids), tuned(ids), **EXACT)
    assert finished.small_names == ("prompt.table.weight",)
    assert n_trainable(finished) == 3 * model.config.d_model
    assert finished.card.settings == {"template": [2, 1], "gap": 3, "encoder": None}
    assert (finished is tuned) == (encoder is None)
    assert sum(each.numel() for each in tuned.parameters()) == n_before, "the model that was given stays as it is"
    require_pieces_equal_whole(finished, generator)


def test_an_lstm_lets_the_vectors_know_of_each_other(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    rows = torch.randn(5, 64, generator=generator, dtype=torch.float64)  # of so many units some are never dead
    state = torch.get_rng_state()
    for kind, reached in (("lstm", 5), ("mlp", 1)):
        encoder = PromptEncoder(rows, kind, torch.Generator().manual_seed(fresh_seed))
        again = PromptEncoder(rows, kind, torch.Generator().manual_seed(fresh_seed))
        assert torch.equal(encoder(), again())
        before = encoder().clone()
        with torch.no_grad():
            encoder.rows.table.weight[2] += 1.0
        assert int((encoder() != before).any(dim=1).sum()) == reached
    assert torch.equal(torch.get_rng_state(), state), "a given generator is the only source of randomness"


def test_the_number_of_tokens_behind_a_full_cache(fresh_seed):
    sizes, gap = drawn_template(torch.Generator().manual_seed(fresh_seed))
    template = Template(sizes, gap)
    for n_tokens in range(1, 20):
        slots = len(written_out([0] * n_tokens, [1] * sum(sizes), sizes, gap)[0])
        assert template.tokens_in(slots, None) == n_tokens
    assert template.tokens_in(7, 5) == 5
    with pytest.raises(ValueError, match="cache holds 2 tokens"):
        Template((3,), 4).tokens_in(2, None)


def test_beams_have_room_for_the_vectors(fresh_seed):
    generator, model = torch.Generator().manual_seed(fresh_seed), model_of("GQA")
    ids, mask = ids_of(generator, 3, 7), torch.ones(3, 7, dtype=torch.bool)
    mask[1, :2], mask[2, :5] = False, False  # so that rows reach a place at different steps
    for method in (tuning.prompt_tuning, tuning.p_tuning):
        tuned = method(model, generator=generator)
        best, _ = beam_search(tuned, ids, 6, n_beams=1, padding_mask=mask)
        assert torch.equal(best[:, 0], generate(tuned, ids, 6, temperature=0.0, padding_mask=mask))
        assert beam_search(tuned, ids, 6, n_beams=3, padding_mask=mask)[0].shape == (3, 3, 13)


def test_bad_arguments_are_named():
    model = model_of("GQA")
    for arguments, told in (({"template": ()}, r"template=\(\)"), ({"template": (0, 0)}, "template"),
                            ({"template": (2, -1)}, "template"), ({"gap": 0}, "gap=0"),
                            ({"encoder": "gru"}, "encoder='gru'"), ({"template": (20, 20)}, "max_seq_len=40")):
        with pytest.raises(ValueError, match=told):
            tuning.p_tuning(model, **arguments)
    with pytest.raises(ValueError, match="use an even width or 'mlp'"):
        PromptEncoder(torch.zeros(2, 5), "lstm")
