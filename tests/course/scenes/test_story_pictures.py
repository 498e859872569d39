r"""Words find their places, and pictures show what they are given."""

import random

from matplotlib.patches import Rectangle

from minillm.course import plots
from minillm.course.scenes import story_pictures
from minillm.course.scenes.story_surprise import word_surprises
from minillm.text.stories import StoryLanguage
from minillm.text.words import join_words, split_words


def test_words_stand_as_they_are_written(fresh_seed: int):
    story = StoryLanguage().sample(random.Random(fresh_seed))
    words = split_words(story)
    for columns in (20, 46, 78):
        page: dict[int, str] = {}
        for word, (line, column) in zip(words, story_pictures.set_in_lines(words, columns), strict=True):
            page[line] = page.get(line, "").ljust(column) + word
        assert " ".join(page.values()) == story == join_words(words)
        assert all(len(text.rstrip(".,")) <= columns for text in page.values())


def test_no_words_need_no_place():
    assert story_pictures.set_in_lines([], 10) == []


def test_a_bar_for_every_surprise_and_none_for_the_rest(fresh_seed: int):
    language = StoryLanguage()
    told = word_surprises(language, language.sample(random.Random(fresh_seed)))
    figure = story_pictures.surprise_picture(told)
    bars = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    heights = [word.nats for word in told if word.nats > 0]
    assert len(bars) == len(heights)
    scale = story_pictures.BAR_ROOM / max(heights)
    assert all(abs(bar.get_height() - scale * nats) < 1e-9 for bar, nats in zip(bars, heights, strict=True))


def test_the_likeliest_words_come_first():
    figure, (axes,) = plots.new_figure()
    story_pictures.next_word_panel(axes, {"a": 0.1, "b": 0.6, "c": 0.3}, {"b": 0.5}, n_words=2)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "c"]
    assert [bar.get_width() for bar in axes.patches] == [0.6, 0.3]
    assert axes.collections[0].get_offsets()[:, 0].tolist() == [0.5, 0.0]
