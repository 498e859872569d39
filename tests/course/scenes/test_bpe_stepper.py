r"""The BPE stepper: its states are those of the trainer, and its picture shows them."""

import random

import pytest
from matplotlib.patches import FancyBboxPatch

from minillm.course.scenes.bpe_stepper import (
    LINE_WIDTH,
    TEXTS,
    merge_steps,
    place_tokens,
    segmentation_picture,
    stepper_controls,
    stepper_picture,
    token_label,
)
from minillm.course.widgets import Explorer
from minillm.text import bpe


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_steps_are_those_of_the_trainer(text: str) -> None:
    merges = bpe.train_bpe(text, 20)
    steps = merge_steps(text, 20)
    assert [step.best for step in steps[: len(merges)]] == list(merges)
    assert len(steps) == len(merges) + 1
    tokenizer = bpe.BPETokenizer(merges)
    assert [i for chunk in steps[-1].chunks for i in chunk] == tokenizer.encode(text)
    assert list(steps[-1].token_bytes) == tokenizer.token_bytes
    assert [step.n_tokens for step in steps] == sorted((step.n_tokens for step in steps), reverse=True)


def test_every_state_holds_the_whole_text(fresh_seed: int) -> None:
    rng = random.Random(fresh_seed)
    text = "".join(rng.choice("ab c好é") for _ in range(rng.randint(0, 60)))
    for step in merge_steps(text, 8):
        assert b"".join(step.token_bytes[i] for chunk in step.chunks for i in chunk).decode() == text
        by_hand = [pair for chunk in step.chunks for pair in zip(chunk, chunk[1:], strict=False)]
        assert step.counts == {pair: by_hand.count(pair) for pair in by_hand}
        if step.best is not None:
            assert step.counts[step.best] == max(step.counts.values()) >= 2


@pytest.mark.parametrize(
    ("token", "label"),
    [
        (b"the", "the"),
        (b" t", "\u2423t"),
        ("é".encode(), "é"),
        ("好".encode(), "E5 A5 BD"),
        (b"\xe5\xa5", "E5 A5"),
        (b"\n", "0A"),
        (b"", ""),
    ],
)
def test_labels(token: bytes, label: str) -> None:
    assert token_label(token) == label


def test_tokens_neither_overlap_nor_leave_the_page(fresh_seed: int) -> None:
    rng = random.Random(fresh_seed)
    labels = [["x" * rng.randint(1, 12) for _ in range(rng.randint(1, 6))] for _ in range(30)]
    places = place_tokens(labels)
    assert len(places) == sum(map(len, labels))
    for (left, line, size), (next_left, next_line, _) in zip(places, places[1:], strict=False):
        assert left + size <= LINE_WIDTH + 1e-9
        assert next_line == line and next_left >= left + size - 1e-9 or (next_line, next_left) == (line + 1, 0.0)


def test_picture_draws_a_box_a_token_and_marks_the_next_pair() -> None:
    for merges in (0, 5, 30):
        upper, lower = stepper_picture("a rhyme", merges).axes
        step = merge_steps(TEXTS["a rhyme"], merges)[-1]
        assert sum(isinstance(patch, FancyBboxPatch) for patch in upper.patches) == step.n_tokens
        assert f"are {step.n_tokens} tokens" in upper.get_title()
        lengths = [bar.get_width() for bar in lower.patches]
        assert lengths == sorted(step.counts.values(), reverse=True)[: len(lengths)]
        assert len({bar.get_facecolor() for bar in lower.patches}) == (2 if step.best else 1)


def test_rows_of_several_tokenizers() -> None:
    figure = segmentation_picture({"bytes": [b"a", b"b"], "one": [b"ab"]})
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["bytes: 2 tokens", "one: 1 tokens"]


def test_moving_a_control_draws_another_picture() -> None:
    explorer = Explorer(stepper_picture, "a rhyme after six merges", **stepper_controls())
    before = explorer.picture.value
    explorer.controls["merges"].value = 7
    after = explorer.picture.value
    explorer.controls["text"].value = "numbers"
    assert len({before, after, explorer.picture.value}) == 3
