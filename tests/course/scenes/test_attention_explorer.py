r"""The attention explorer and the pictures of attention over stories: what they compute, and what they draw."""

import pytest
import torch
from matplotlib.patches import FancyArrowPatch, Rectangle

from minillm.course.scenes.attention_explorer import (
    MASKS,
    PREFIX_LEN,
    WINDOW,
    explored_weights,
    explorer_controls,
    explorer_picture,
    mask_by_name,
)
from minillm.course.scenes.attention_pictures import SEEN, lookup_picture, story_weights_picture
from minillm.course.widgets import Explorer

WORDS = "Mia had a red kite . Mia lost the red".split()
RULES = {
    "none": lambda i, j: True,
    "causal": lambda i, j: j <= i,
    f"prefix of {PREFIX_LEN}": lambda i, j: j <= i or j < PREFIX_LEN,
    f"window of {WINDOW}": lambda i, j: i - WINDOW < j <= i,
}


def draw_scores(seed: int) -> torch.Tensor:
    return torch.randn(len(WORDS), len(WORDS), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_every_choice_of_mask_follows_its_rule() -> None:
    assert set(MASKS) == set(RULES)
    for kind, rule in RULES.items():
        n = 11
        assert mask_by_name(kind, n).tolist() == [[rule(i, j) for j in range(n)] for i in range(n)], kind
    with pytest.raises(ValueError, match="kind='diagonal'"):
        mask_by_name("diagonal", 4)


@pytest.mark.parametrize("kind", MASKS)
def test_weights_are_a_softmax_over_what_is_seen(kind: str, fresh_seed: int) -> None:
    scores = draw_scores(fresh_seed)
    weights = explored_weights(scores, kind, 0.5)
    for i, row in enumerate(scores):
        seen = [j for j in range(len(WORDS)) if RULES[kind](i, j)]
        torch.testing.assert_close(weights[i, seen], torch.softmax(row[seen] * 2, 0))
        assert int((weights[i] > 0).sum()) == len(seen)


def test_temperature_goes_from_a_hard_choice_to_a_plain_average(fresh_seed: int) -> None:
    scores = draw_scores(fresh_seed)
    cold, hot = explored_weights(scores, "none", 1e-4), explored_weights(scores, "none", 1e6)
    assert torch.equal(cold.argmax(-1), scores.argmax(-1)) and float(cold.amax(-1).min()) > 0.99
    torch.testing.assert_close(hot, torch.full_like(hot, 1 / len(WORDS)), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="temperature=0"):
        explored_weights(scores, "none", 0.0)


def test_picture_shows_all_weights_and_the_query_s_own(fresh_seed: int) -> None:
    scores = draw_scores(fresh_seed)
    figure = explorer_picture(WORDS, scores, "causal", 2.0, query=7)
    left, right = figure.axes
    weights = explored_weights(scores, "causal", 2.0)
    torch.testing.assert_close(torch.as_tensor(left.images[0].get_array().data), weights)
    bars = [bar.get_width() for bar in right.patches]
    torch.testing.assert_close(torch.tensor(bars, dtype=torch.float64), weights[7])
    (frame,) = left.patches
    assert (frame.get_y(), frame.get_width()) == (6.5, len(WORDS))


def test_moving_a_control_draws_another_picture(fresh_seed: int) -> None:
    scores = draw_scores(fresh_seed)
    drawn = []

    def draw(kind: str, temperature: float, query: int):
        drawn.append((kind, temperature, query))
        return explorer_picture(WORDS, scores, kind, temperature, query)

    explorer = Explorer(draw, "the weights of ten words", **explorer_controls(len(WORDS), query=9))
    before = explorer.picture.value
    explorer.controls["kind"].value = MASKS[0]
    explorer.controls["temperature"].value = 10.0
    explorer.controls["query"].value = 2
    assert drawn == [("causal", 1.0, 9), (MASKS[0], 1.0, 9), (MASKS[0], 10.0, 9), (MASKS[0], 10.0, 2)]
    assert explorer.picture.value != before


def test_lookup_hides_the_word_and_points_to_it_from_each_source() -> None:
    figure = lookup_picture([*WORDS, "kite", "."], asked=10, found=[4])
    (axes,) = figure.axes
    written = [text.get_text() for text in axes.texts]
    assert written.count("kite") == 1 and "____" in written
    assert sum(isinstance(patch, FancyArrowPatch) for patch in axes.patches) == 1


def test_story_shades_what_is_looked_at_and_nothing_else() -> None:
    weights = torch.tensor([0.0, 0.0, 0.0, SEEN / 2, 0.7, 0.0, 0.0, 0.0, 0.0, 0.3 - SEEN / 2])
    figure = story_weights_picture([*WORDS, "kite"], {"which object?": (9, weights), "again": (4, weights[:5])})
    shaded = [[p for p in axes.patches if isinstance(p, Rectangle)] for axes in figure.axes]
    assert [len(boxes) for boxes in shaded] == [2, 1]
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["which object?", "again"]
