r"""Talking to a model: what it is fed, what it says, and what is said to an unknown word."""

import pytest
import torch

from minillm.config import preset
from minillm.course.scenes import story_talk
from minillm.model.gpt import GPT
from minillm.text.stories import StoryLanguage

LANGUAGE = StoryLanguage()
MODEL = GPT(preset("tiny", d_model=32, n_heads=2, head_dim=16), torch.Generator().manual_seed(0)).eval()


class Parrot:
    r"""A model without weights that is sure of one word, or of the end."""

    def __init__(self, word: str) -> None:
        self.token_id = LANGUAGE.vocabulary.index(word)

    def __call__(self, token_ids, padding_mask=None, positions=None, cache=None):
        return 50.0 * torch.nn.functional.one_hot(torch.full_like(token_ids, self.token_id), 128).float()

    def new_cache(self, batch_size, capacity, dtype=None):
        return None


def test_the_prompt_begins_with_the_begin_token():
    assert story_talk.prompt_ids(LANGUAGE, "").tolist() == [[1]]
    assert story_talk.prompt_ids(LANGUAGE, "Mia had").tolist() == [[1, *LANGUAGE.tokenizer.encode("Mia had")]]
    with pytest.raises(ValueError, match="at most 59"):
        story_talk.prompt_ids(LANGUAGE, "Mia " * 60)


def test_it_tells_on_from_the_beginning_to_the_end_token():
    assert story_talk.tell_on(Parrot("<eos>"), LANGUAGE, "Mia had a") == "Mia had a"
    told = story_talk.tell_on(Parrot("kite"), LANGUAGE, "Mia had a")
    assert told.startswith("Mia had a kite kite") and len(told.split()) == LANGUAGE.max_len - 1


def test_same_seed_same_story():
    tellings = [story_talk.tell_on(MODEL, LANGUAGE, "Tom", seed=seed) for seed in (1, 1, 2)]
    assert tellings[0] == tellings[1] != tellings[2]


def test_probabilities_are_those_of_the_logits_over_the_temperature():
    with torch.no_grad():
        logits = MODEL(story_talk.prompt_ids(LANGUAGE, "Mia had a"))[0, -1]
    for temperature in (0.5, 1.0, 3.0):
        probs = story_talk.model_next_probs(MODEL, LANGUAGE, "Mia had a", temperature)
        assert list(probs) == LANGUAGE.vocabulary
        expected = torch.softmax(logits.double() / temperature, -1).tolist()
        assert list(probs.values()) == pytest.approx(expected, abs=1e-6)


def texts(figure) -> str:
    return " ".join(text.get_text() for axes in figure.axes for text in [*axes.texts, axes.title, axes._left_title])


def test_the_picture_says_what_is_wrong():
    shown = texts(story_talk.talk_picture(Parrot("kite"), LANGUAGE, "Mia had a red", 1.0, 0))
    assert "No story" in shown and "word 6" in shown
    assert "elephant" in texts(story_talk.talk_picture(MODEL, LANGUAGE, "Mia had an elephant", 1.0, 0))
    assert "Next" not in texts(story_talk.talk_picture(MODEL, LANGUAGE, "Tom and her", 1.0, 0))


def test_the_widget_draws_anew_when_a_control_is_moved():
    widget = story_talk.talk_widget(MODEL, LANGUAGE, "Mia had a")
    first = widget.picture.value
    widget.controls["temperature"].value = 2.0
    second = widget.picture.value
    widget.controls["beginning"].value = "no such word"
    assert len({first, second, widget.picture.value}) == 3
    data, metadata = widget._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG") and "Mia had a" in metadata["image/png"]["alt"]
