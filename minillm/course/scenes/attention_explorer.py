r"""The attention explorer: move the mask, the temperature and the query, and watch a row of weights change."""

from collections.abc import Sequence

import torch
from ipywidgets import Dropdown, FloatLogSlider, IntSlider, Widget
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from minillm.course.plots import COLOURS, INK, PALE, heat_map, new_figure
from minillm.layers import masks, softmax

PREFIX_LEN, WINDOW = 6, 4
MASKS = ("none", "causal", f"prefix of {PREFIX_LEN}", f"window of {WINDOW}")


def mask_by_name(kind: str, n_words: int) -> Tensor:
    r"""The mask behind a choice of the explorer.

    Args:
        kind: one of MASKS.
        n_words: T.
    Returns: (T, T) bool, True = may attend.
    Raises:
        ValueError: if there is no such choice.
    """
    positions = torch.arange(n_words)
    if kind == MASKS[0]:
        return masks.bidirectional_mask(positions, positions)
    if kind == MASKS[1]:
        return masks.causal_mask(positions, positions)
    if kind == MASKS[2]:
        return masks.prefix_mask(positions, positions, PREFIX_LEN)
    if kind == MASKS[3]:
        return masks.sliding_window_mask(positions, positions, WINDOW)
    raise ValueError(f"kind={kind!r}: choose one of {', '.join(MASKS)}")


def explored_weights(scores: Tensor, kind: str, temperature: float) -> Tensor:
    r"""Attention weights from scores, under a mask and a temperature.

    Args:
        scores: (T, T), scaled, before the mask.
        kind: one of MASKS.
        temperature: the scores are divided by it; 1 leaves them as they are.
    Returns: (T, T), rows sum to 1.
    Raises:
        ValueError: if the temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature={temperature}: use a number above 0")
    mask = mask_by_name(kind, len(scores))
    return softmax.softmax((scores / temperature).masked_fill(~mask, float("-inf")))


def explorer_picture(words: Sequence[str], scores: Tensor, kind: str, temperature: float, query: int) -> Figure:
    r"""Draw all weights as a heat map, and those of one query as bars.

    Args:
        words: T labels.
        scores: (T, T), scaled, before the mask.
        kind: one of MASKS.
        temperature: the scores are divided by it.
        query: which row is drawn as bars, counted from 0.
    Returns: the picture.
    """
    weights = explored_weights(scores, kind, temperature)
    figure, (left, right) = new_figure(2, width=9.6, height=4.8)
    heat_map(left, weights, words, words, "a row is a query, a column a key", low=0.0, high=1.0)
    left.tick_params(axis="x", rotation=90)
    left.tick_params(labelsize=8)
    frame = {"fill": False, "edgecolor": COLOURS[3], "linewidth": 2}
    left.add_patch(Rectangle((-0.5, query - 0.5), len(words), 1, **frame))
    places = range(len(words))
    right.barh(places, weights[query].tolist(), color=COLOURS[0], height=0.7)
    right.set_yticks(places, words, fontsize=8)
    right.invert_yaxis()
    right.set_xlim(0, 1)
    right.grid(axis="x", color=PALE, linewidth=0.6)
    right.set_axisbelow(True)
    right.set_xlabel("attention weight", fontsize=9, color=INK)
    right.set_title(f"word {query + 1}, {words[query]!r}, reads from", fontsize=10, color=INK)
    return figure


def explorer_controls(n_words: int, query: int) -> dict[str, Widget]:
    r"""The controls of the explorer: a choice of masks, a slider for the temperature and one for the query.

    Args:
        n_words: T.
        query: where the slider of the query starts, counted from 0.
    Returns: a widget for each of the last three arguments of `explorer_picture`.
    """
    look = {"style": {"description_width": "6em"}, "layout": {"width": "32em"}}
    return {
        "kind": Dropdown(options=MASKS, value="causal", description="mask", **look),
        "temperature": FloatLogSlider(
            value=1.0, base=10, min=-1, max=1, step=0.05, description="temperature", readout_format=".2f", **look
        ),
        "query": IntSlider(value=query, min=0, max=n_words - 1, description="query", **look),
    }
