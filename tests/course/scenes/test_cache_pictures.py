r"""Pictures of lesson 10 show what they count."""

from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle

from minillm.course.plots import new_figure
from minillm.course.scenes.cache_pictures import LOOKS, chunk_picture, slot_steps, tree_picture, work_picture
from minillm.inference.long_text import chunk_spans, map_reduce


def boxes(axes, look):
    fill, edge, _ = (to_rgba(part) if isinstance(part, str) and part != "-" else part for part in LOOKS[look])
    found = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    return [patch for patch in found if patch.get_facecolor() == fill and patch.get_edgecolor() == edge]


def test_every_computed_token_is_a_box():
    words = [f"w{i}" for i in range(9)]
    without, with_cache = work_picture(words, 4).axes
    assert len(boxes(without, "new")) == 4 + 5 + 6 + 7 + 8 and "30 tokens" in without.get_title()
    assert len(boxes(with_cache, "new")) == 8 and "8 tokens" in with_cache.get_title()
    assert len(boxes(with_cache, "held")) == 4 + 5 + 6 + 7


def test_slots_are_free_held_or_new():
    _, (axes,) = new_figure()
    slot_steps(axes, [[0, None], [0, 1], [2, 1]], [0, 1, 2], "rolling", first_step=5)
    assert [len(boxes(axes, look)) for look in ("free", "new", "held")] == [1, 3, 2]
    assert [text.get_text() for text in axes.texts if text.get_text().startswith("token")] == [
        "token 5", "token 6", "token 7"]  # fmt: skip


def test_titles_count_whole_facts_and_tokens_read():
    cuts = {"plain": chunk_spans(30, 10), "overlap": chunk_spans(30, 10, 5)}
    plain, overlap = chunk_picture(30, cuts, [range(2, 6), range(8, 12)]).axes
    assert plain.get_title(loc="left") == "plain: 1 of 2 facts whole, 30 tokens read"
    assert overlap.get_title(loc="left") == "overlap: 2 of 2 facts whole, 50 tokens read"


def test_a_tree_has_a_box_a_result_and_a_line_a_merge():
    levels = map_reduce([1, 2, 3, 4, 5, 6, 7], lambda part: part, sum, 3)
    (axes,) = tree_picture(levels, 3, "sum").axes
    assert [text.get_text() for text in axes.texts] == ["1", "2", "3", "4", "5", "6", "7", "6", "15", "7", "28"]
    assert len(axes.get_lines()) == 7 + 3
