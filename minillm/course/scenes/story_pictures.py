r"""Stories as pictures: words in lines, what each costs, and what a model would say next."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from minillm.course.plots import COLOURS, INK, PALE, new_figure
from minillm.course.scenes.story_surprise import WordSurprise
from minillm.text.words import join_words

CHOICE, REMEMBERED, FIXED = COLOURS[1], COLOURS[0], "#707070"
BAR_ROOM = 0.62  # the share of a line's height that its highest bar may take


def set_in_lines(words: Sequence[str], columns: int) -> list[tuple[int, int]]:
    r"""Give each word its place on a page of letters that are all equally wide.

    Args:
        words: words and marks.
        columns: letters a line.
    Returns: line and column of each word's first letter; marks follow their word without a space.
    """
    places, line, column = [], 0, 0
    for i, word in enumerate(words):
        gap = 0 if column == 0 or join_words(words[i - 1 : i + 1]) == words[i - 1] + word else 1
        if gap and column + gap + len(word) > columns:  # a mark stays with its word, even beyond the margin
            line, column, gap = line + 1, 0, 0
        places.append((line, column + gap))
        column += gap + len(word)
    return places


def write_words(
    axes: Axes, words: Sequence[str], colours: Sequence[str], columns: int, size: float, bold: Sequence[bool] = ()
) -> list[tuple[int, int]]:
    r"""Write words on a panel, each in its colour.

    Args:
        axes: the panel; its scale becomes letters and lines, the first line on top.
        words: words and marks.
        colours: a colour a word.
        columns: letters a line.
        size: of the letters, in points.
        bold: a truth value a word; none means that no word is bold.
    Returns: line and column of each word, as `set_in_lines` gives them.
    """
    places = set_in_lines(words, columns)
    axes.set_axis_off()
    axes.set(xlim=(0, columns), ylim=(max((line for line, _ in places), default=0) + 1, 0))
    for i, (word, (line, column)) in enumerate(zip(words, places, strict=True)):
        weight = "bold" if bold and bold[i] else "normal"
        look = {"family": "monospace", "fontsize": size, "weight": weight, "color": colours[i]}
        axes.text(column, line + 0.97, word, ha="left", va="bottom", **look)
    return places


def surprise_picture(story: Sequence[WordSurprise]) -> Figure:
    r"""Draw a story with a bar over each word, as high as its surprise.

    Args:
        story: from `word_surprises`.
    Returns: the picture.
    """
    columns = 78
    inks = [REMEMBERED if word.remembered else INK if word.nats > 0 else FIXED for word in story]
    n_lines = 1 + set_in_lines([word.word for word in story], columns)[-1][0]
    figure, (axes,) = new_figure(width=8.4, height=0.75 + 0.72 * n_lines)
    places = write_words(axes, [word.word for word in story], inks, columns, 12.5, [ink != FIXED for ink in inks])
    highest = max(word.nats for word in story)
    for word, (line, column) in zip(story, places, strict=True):
        if word.nats == 0:
            continue
        height, width = BAR_ROOM * word.nats / highest, len(word.word)
        axes.add_patch(Rectangle((column, line + 0.66 - height), width, height, color=CHOICE))
        at = (column + width / 2, line + 0.64 - height)
        axes.text(*at, f"{word.nats:.1f}", ha="center", va="bottom", fontsize=7, color=INK)
    axes.set_ylim(n_lines + 0.05, -0.12)
    names = {CHOICE: "a choice: a surprise, in nats", REMEMBERED: "must be remembered", FIXED: "always follows"}
    handles = [Rectangle((0, 0), 1, 1, color=colour) for colour in names]
    axes.legend(handles, names.values(), loc="upper left", bbox_to_anchor=(0, 0), ncols=3, fontsize=9, frameon=False)
    total = sum(word.nats for word in story)
    axes.set_title(f"How surprising is each word? This story: {total:.1f} nats", fontsize=10, color=INK, loc="left")
    return figure


def next_word_panel(
    axes: Axes, probs: Mapping[str, float], truth: Mapping[str, float] | None = None, n_words: int = 10
) -> None:
    r"""Draw the likeliest next words as bars.

    Args:
        axes: the panel.
        probs: the model's probability of each word.
        truth: the language's own, drawn as a mark on each bar; None draws none.
        n_words: how many words are shown.
    """
    shown = sorted(probs, key=lambda word: -probs[word])[:n_words]
    axes.barh(shown, [probs[word] for word in shown], color=COLOURS[0], height=0.6, label="the model")
    if truth is not None:
        marks = [truth.get(word, 0.0) for word in shown]
        axes.scatter(marks, shown, marker="D", s=26, color=COLOURS[3], zorder=3, label="the language", clip_on=False)
        axes.legend(fontsize=8, frameon=False, loc="lower right")
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.grid(axis="x", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("probability", fontsize=9, color=INK)
