r"""The cost explorer: its numbers are those of the cost functions, and its controls reach the picture."""

import pytest

from minillm.course.scenes.cost_explorer import (
    BYTES,
    TILE_LEN,
    WIDE,
    cost_controls,
    cost_picture,
    explored_costs,
    growth_picture,
    readable_amount,
)
from minillm.course.widgets import Explorer
from minillm.layers.attention_cost import KINDS


def test_costs_of_a_model_of_seven_billion_weights() -> None:
    costs = explored_costs(WIDE, 32, 4096, None)
    # 32 layers, 32 heads of 128, keys and values, 2 bytes, 4,096 tokens: 2 GiB
    assert costs["MHA"]["kept"] == 2 * 2**30
    assert costs["GQA"]["kept"] * 4 == costs["MQA"]["kept"] * 32 == costs["MHA"]["kept"]
    assert costs["MLA"]["kept"] == 32 * 4096 * (512 + 64) * BYTES
    assert costs["MHA"]["work"] - costs["GQA"]["work"] == 32 * 2 * (32 - 8) * 128 * 2 * 4096  # k_proj and v_proj only
    assert costs["MHA"]["largest"] == 32 * 4096**2 * BYTES


def test_tiles_shrink_tables_and_nothing_else() -> None:
    whole, tiled = (explored_costs(WIDE, 2, 2**14, tile_len) for tile_len in (None, TILE_LEN))
    for kind in KINDS:
        assert whole[kind]["kept"] == tiled[kind]["kept"] and whole[kind]["work"] == tiled[kind]["work"]
        smaller = kind in ("MHA", "GQA", "MQA", "MLA", "window")
        assert (tiled[kind]["largest"] < whole[kind]["largest"]) == smaller


def test_recurrences_keep_the_same_however_long_the_text() -> None:
    short, long = (explored_costs(WIDE, 1, n, None) for n in (2**12, 2**20))
    for kind in KINDS:
        assert (short[kind]["kept"] == long[kind]["kept"]) == (kind in ("linear", "RWKV", "window", "Infini"))


@pytest.mark.parametrize(
    ("number", "unit", "text"),
    [(0, "B", "0 B"), (1023, "B", "1023 B"), (1024, "B", "1 KiB"), (2.5 * 2**30, "B", "2.5 GiB"),
     (999, "FLOP", "999 FLOP"), (1_234_567, "FLOP", "1.2 MFLOP"), (345_678, "FLOP", "346 kFLOP")],
)  # fmt: skip
def test_amounts_are_written_with_a_prefix(number: float, unit: str, text: str) -> None:
    assert readable_amount(number, unit) == text


def test_bars_are_as_long_as_the_costs() -> None:
    figure = cost_picture(2**14, 8, 512, 2**12, False)
    for axes, measure in zip(figure.axes, ("kept", "work", "largest"), strict=True):
        wanted = [cost[measure] for cost in explored_costs(WIDE, 32, 2**14, None).values()]
        assert [bar.get_width() for bar in axes.patches] == wanted
        assert [label.get_text() for label in axes.get_yticklabels()] == list(KINDS)


def test_every_control_changes_the_picture() -> None:
    explorer = Explorer(cost_picture, "the costs of eight kinds of attention", **cost_controls())
    moves = {"tokens": 2**20, "n_kv_heads": 1, "kv_rank": 64, "window": 2**10, "tiles": True}
    assert set(moves) == set(explorer.controls)
    for name, value in moves.items():
        before = explorer.picture.value
        explorer.controls[name].value = value
        assert explorer.picture.value != before, name


def test_growth_draws_a_curve_for_each_kind() -> None:
    (axes,) = growth_picture(WIDE, 4, ("MHA", "MQA", "linear"), (2**30, "a GiB")).axes
    curves = {line.get_label(): list(line.get_ydata()) for line in axes.lines[:3]}
    assert curves["MHA"][0] == 32 * curves["MQA"][0] == BYTES * 4 * 2 * 4096 * 256
    assert len(set(curves["linear"])) == 1
