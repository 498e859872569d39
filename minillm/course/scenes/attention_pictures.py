r"""Pictures of attention over a story: which earlier word is asked for, and where a query really looks."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from torch import Tensor

from minillm.course.plots import COLOURS, INK, new_figure
from minillm.course.scenes.story_pictures import set_in_lines, write_words

ASKED, FOUND, OTHER = COLOURS[3], COLOURS[0], "#8A8A8A"
SEEN = 0.02  # a weight below this is not shown


def lookup_picture(words: Sequence[str], asked: int, found: Sequence[int]) -> Figure:
    r"""Draw a story with a gap, and an arrow to it from each word that could fill it.

    Args:
        words: words and marks.
        asked: the index of the word that is left out.
        found: the indices of the words that tell what it must be.
    Returns: the picture.
    """
    columns = 66
    shown = ["____" if i == asked else word for i, word in enumerate(words)]
    colours = [ASKED if i == asked else FOUND if i in found else OTHER for i in range(len(words))]
    n_lines = 1 + set_in_lines(shown, columns)[-1][0]
    figure, (axes,) = new_figure(width=7.6, height=0.5 + 0.62 * n_lines)
    places = write_words(axes, shown, colours, columns, 13, [colour != OTHER for colour in colours])
    for i in found:
        ends = [(column + len(shown[j]) / 2, line + 0.55 + 0.45 * (j < asked)) for j, (line, column) in zip(
            (i, asked), (places[i], places[asked]), strict=True)]  # fmt: skip
        look = {"color": FOUND, "linewidth": 1.6, "arrowstyle": "-|>", "mutation_scale": 14, "alpha": 0.6, "zorder": 0}
        axes.add_patch(FancyArrowPatch(*ends, connectionstyle="arc3,rad=0.12", shrinkA=2, shrinkB=2, **look))
    axes.set_title("Which object? The answer stands further up.", fontsize=10, color=INK, loc="left")
    return figure


def story_weights_picture(words: Sequence[str], questions: Mapping[str, tuple[int, Tensor]]) -> Figure:
    r"""Draw a story once for each question, every word shaded by the attention that it gets.

    Args:
        words: words and marks.
        questions: for each title the index of the word that asks, and its weights over the words, (T,), 0 to 1.
    Returns: the picture.
    """
    columns = 47
    n_lines = 1 + set_in_lines(words, columns)[-1][0]
    figure, panels = new_figure(len(questions), width=4.2 * len(questions), height=0.5 + 0.42 * n_lines)
    for axes, (title, (asked, weights)) in zip(panels, questions.items(), strict=True):
        _shade_words(axes, words, asked, weights, columns)
        axes.set_title(title, fontsize=10, color=INK, loc="left")
    return figure


def _shade_words(axes: Axes, words: Sequence[str], asked: int, weights: Tensor, columns: int) -> None:
    colours = [ASKED if i == asked else INK if i < asked else OTHER for i in range(len(words))]
    bold = [i == asked for i in range(len(words))]
    places = write_words(axes, words, colours, columns, 9.5, bold)
    for i, (line, column) in enumerate(places):
        weight = float(weights[i]) if i < len(weights) else 0.0
        if weight < SEEN:
            continue
        width = len(words[i])
        look = {"color": COLOURS[5], "alpha": 0.15 + 0.85 * weight, "zorder": 0, "linewidth": 0}
        axes.add_patch(Rectangle((column - 0.2, line + 0.33), width + 0.4, 0.66, **look))
        axes.text(column + width / 2, line + 0.36, f"{weight:.2f}", ha="center", va="bottom", fontsize=6.5, color=INK)
