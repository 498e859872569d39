r"""Watching a training run: what is measured, when a story is told, and what is drawn."""

import math
from itertools import count

import pytest
import torch

from minillm.config import preset
from minillm.course.scenes.story_watch import StoryWatch
from minillm.inference.evaluate import batch_nats
from minillm.model.gpt import GPT
from minillm.text.batches import shift_rows, story_batch
from minillm.text.stories import StoryLanguage
from minillm.training.loop import train

LANGUAGE = StoryLanguage()


@pytest.fixture
def model() -> GPT:
    return GPT(preset("tiny", d_model=32, n_heads=2, head_dim=16), torch.Generator().manual_seed(0))


def test_it_looks_before_the_first_step_and_after_the_last(model: GPT, capsys: pytest.CaptureFixture):
    generator = torch.Generator().manual_seed(0)
    batches = (story_batch(LANGUAGE, 4, generator) for _ in count())
    watch = StoryWatch(model, LANGUAGE, story_every=1e9)
    run = train(model, batches, steps=3, callbacks=[watch])
    assert watch.looks[0]["step"] == 0 and watch.looks[-1]["step"] == 3
    printed = capsys.readouterr().out
    assert printed.count("no story:") == 2 and "(3 steps)" in printed
    nats, _ = batch_nats(model, *shift_rows(watch.rows, LANGUAGE.tokenizer.pad_id))
    assert watch.looks[-1]["story"] == pytest.approx(nats / len(watch.rows), rel=0.02)  # it may compute in bf16
    assert 0 < watch.looks[-1]["remembered"] < watch.looks[-1]["story"]

    n_looks = len(watch.looks)
    train(model, batches, steps=5, callbacks=[watch], state=run)  # a run that goes on is not begun anew
    assert [look["step"] for look in watch.looks][:n_looks][-1] == 3 and watch.looks[-1]["step"] == 5


def test_levels_of_the_picture(model: GPT):
    watch = StoryWatch(model, LANGUAGE)
    watch.on_start({"seconds": 0.0, "step": 0})
    left, right = watch.picture().axes
    labels = [text.get_text() for axes in (left, right) for text in axes.get_legend().get_texts()]
    assert f"the floor, {LANGUAGE.entropy():.1f}" in labels
    assert f"guessing blindly, {watch.uniform_nats():.0f}" in labels
    assert f"remembering nothing, {watch.forgetting:.1f}" in labels
    assert LANGUAGE.entropy() < watch.uniform_nats() < LANGUAGE.max_len * math.log(128)
