r"""The sampling explorer and the drawings and small models of lesson 09."""

import pytest
import torch

from minillm.course.plots import new_figure, png_bytes
from minillm.course.scenes.generation_pictures import (
    automaton_chain,
    beam_tree,
    choice_bars,
    trap_picture,
    visible,
    written_text,
)
from minillm.course.scenes.sampling_explorer import SHOWN, sampling_picture, sampling_widget, shape_choice
from minillm.course.scenes.small_writers import LONGEST, SHORTEST, repeated_symbols, train_copier, train_writer
from minillm.inference.repetition import find_loop
from minillm.text.characters import CharTokenizer

LETTERS = CharTokenizer("\n abcdefghijklmnop")


@pytest.fixture(scope="module")
def writer():
    token_ids = torch.randint(LETTERS.vocab_size, (500,), generator=torch.Generator().manual_seed(0))
    return train_writer(token_ids, LETTERS.vocab_size, 0, steps=2)


def test_settings_act_on_the_choice_as_they_say(fresh_seed):
    logits = 3 * torch.randn(50, generator=torch.Generator().manual_seed(fresh_seed), dtype=torch.float64)
    plain = shape_choice(logits, 1.0, 50, 1.0, 0.0)
    torch.testing.assert_close(plain.after, logits.softmax(-1))
    assert plain.n_kept == 50
    assert shape_choice(logits, 1.0, 7, 1.0, 0.0).n_kept == 7
    nucleus = shape_choice(logits, 1.0, 50, 0.8, 0.0)
    kept = plain.before[nucleus.after > 0]
    assert kept.sum() >= 0.8 > kept.sum() - kept.min()
    assert (plain.before[shape_choice(logits, 1.0, 50, 1.0, 0.3).after > 0] >= 0.3 * plain.before.max()).all()
    usual = shape_choice(logits, 1.0, 50, 1.0, 0.0, typical_p=0.5)
    far = (-plain.before.log() - plain.entropy).abs()
    assert far[usual.after > 0].max() <= far[usual.after == 0].min() and usual.n_kept < 50
    flat, sharp = (shape_choice(logits, t, 50, 1.0, 0.0).entropy for t in (2.0, 0.5))
    assert sharp < plain.entropy < flat
    greedy = shape_choice(logits, 0.0, 50, 1.0, 0.0)
    assert greedy.n_kept == 1 and greedy.after.argmax() == logits.argmax() and greedy.entropy == 0


def test_explorer_follows_its_controls(writer):
    explorer = sampling_widget(writer, LETTERS, "abc")
    before = explorer.picture.value
    explorer.controls["top_k"].value = 2
    assert explorer.picture.value != before
    figure = sampling_picture(writer, LETTERS, "abc", 1.0, 2, 1.0, 0.0)
    assert figure.axes[0].get_title().startswith(f"2 of {LETTERS.vocab_size} tokens left")
    written = [text.get_text() for text in figure.axes[0].texts]
    assert written.count("forbidden") == SHOWN - 2
    told = figure.axes[1].texts[0].get_text()
    assert all(f"{number}  " in told for number in (1, 2, 3))


def test_explorer_says_what_is_missing(writer):
    figure = sampling_picture(writer, LETTERS, "", 1.0, 3, 1.0, 0.0)
    assert "at least one letter" in figure.axes[0].texts[0].get_text()


def test_tokens_are_visible():
    assert visible(" the\n") == "␣the↵" and visible("") == "∅"


def test_bars_tell_what_is_forbidden():
    _, (axes,) = new_figure()
    choice_bars(axes, ["a", "b", "c"], [0.5, 0.3, 0.2], [0.625, 0.375, 0.0], "top-k 2")
    assert [text.get_text() for text in axes.texts] == ["0.62", "0.38", "forbidden"]


def test_tree_marks_the_greedy_and_the_likeliest_text():
    _, (axes,) = new_figure()
    beam_tree(axes, {"a": 0.6, "b": 0.4}, {"a": {"c": 0.5, "d": 0.5}, "b": {"c": 0.9, "d": 0.1}})
    notes = [text.get_text() for text in axes.texts if "0." in text.get_text() and " " in text.get_text()]
    assert notes == ["0.30   greedy", "0.36   the likeliest"]
    axes.clear()
    beam_tree(axes, {"a": 0.9, "b": 0.1}, {"a": {"c": 0.9, "d": 0.1}, "b": {"c": 0.9, "d": 0.1}})
    assert any(text.get_text() == "0.81   greedy, and the likeliest" for text in axes.texts)


def test_loops_are_coloured_turn_by_turn():
    _, (axes,) = new_figure()
    pieces = ["x", "y", "a", "b", "a", "b", "a", "b"]
    loop = find_loop([ord(piece) for piece in pieces])
    written_text(axes, "P\n", pieces, loop, "a text")
    papers = [text.get_bbox_patch().get_facecolor() for text in axes.texts]
    assert "".join(text.get_text() for text in axes.texts) == "P↵xyababab"
    assert len(set(papers[:4])) == 1 and papers[4] == papers[5] != papers[6] == papers[7] and papers[8] == papers[4]
    assert papers[0] != papers[4]


def test_other_pictures_are_drawn():
    figure = trap_picture({"greedy": [(1.0, 0.3)], "people": [(3.0, 0.9)]})
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["greedy", "people"]
    figure, (axes,) = new_figure()
    automaton_chain(axes, ["0-9", "-"], "two steps")
    assert [text.get_text() for text in axes.texts if text.get_text()] == ["0", "1", "2", "0-9", "-"]
    assert png_bytes(figure).startswith(b"\x89PNG")


def test_symbols_repeat_after_a_period_that_differs(fresh_seed):
    texts = repeated_symbols(60, 3 * LONGEST, torch.Generator().manual_seed(fresh_seed))
    periods = [min(p for p in range(1, 2 * LONGEST) if torch.equal(row[p:], row[:-p])) for row in texts]
    assert min(periods) >= SHORTEST and max(periods) <= LONGEST and len(set(periods)) > 3


def test_copier_is_trained_and_ready_to_use():
    model = train_copier(1, 0, steps=2)
    assert not model.training and model.config.n_layers == 1
    fresh = train_copier(1, 0, steps=1)
    assert not torch.equal(model.tok_emb.weight, fresh.tok_emb.weight)
