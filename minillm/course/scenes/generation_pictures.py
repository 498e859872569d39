r"""Pictures of generation: bars of the next token, a tree of beams, texts that loop, and likelihood against variety."""

import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from minillm.course.plots import COLOURS, INK, MARKERS, PALE, new_figure
from minillm.inference.repetition import Loop

SHOWN_SPACE = {" ": "␣", "\n": "↵", "\t": "⇥"}


def visible(token: str) -> str:
    r"""A token as a label: spaces and line ends are written as signs.

    Args:
        token: its text.
    Returns: the label, never empty.
    """
    return "".join(SHOWN_SPACE.get(letter, letter) for letter in token) or "∅"


def choice_bars(
    axes: Axes, tokens: Sequence[str], before: Tensor | Sequence[float], after: Tensor | Sequence[float], title: str
) -> None:
    r"""Draw what the filters make of a distribution: what the model gave as outlines, what is drawn from as bars.

    Args:
        axes: the panel.
        tokens: a label a token, the likeliest first.
        before: the model's probability of each.
        after: the probability with which each is drawn; 0 where it is forbidden.
        title: above the panel.
    """
    places = range(len(tokens))
    before, after = [float(p) for p in before], [float(p) for p in after]
    reach = max(*before, *after)
    axes.barh(places, after, color=COLOURS[0], height=0.62)
    axes.barh(places, before, facecolor="none", edgecolor=INK, linewidth=1.0, height=0.62)
    for place, (p, q) in enumerate(zip(before, after, strict=True)):
        label, ink = (f"{q:.2f}", INK) if q > 0 else ("forbidden", COLOURS[3])
        axes.text(max(p, q) + 0.02 * reach, place, label, va="center", fontsize=8, color=ink)
    axes.set_yticks(places, list(tokens))
    axes.set_ylim(len(tokens) - 0.4, -0.6)
    axes.set_xlim(0, 1.25 * reach)
    axes.set_xlabel("probability", fontsize=9, color=INK)
    axes.set_title(title, fontsize=10, color=INK)


def beam_tree(axes: Axes, first: Mapping[str, float], second: Mapping[str, Mapping[str, float]]) -> None:
    r"""Draw all texts of two tokens as a tree, with the greedy way and the likeliest one marked.

    Args:
        axes: the panel.
        first: probability of each first token.
        second: after each of them, the probability of each second token.
    """
    axes.set_axis_off()
    texts = {(a, b): p * q for a, p in first.items() for b, q in second[a].items()}
    best = max(texts, key=texts.get)
    greedy_first = max(first, key=first.get)
    greedy = (greedy_first, max(second[greedy_first], key=second[greedy_first].get))
    leaf_y = {text: -place for place, text in enumerate(texts)}
    branch_y = {a: sum(leaf_y[a, b] for b in second[a]) / len(second[a]) for a in first}
    root = (0.0, sum(branch_y.values()) / len(branch_y))
    for a, p in first.items():
        _branch(axes, root, (1.0, branch_y[a]), p, _way(a == greedy[0], a == best[0]))
        axes.text(1.0, branch_y[a], a, fontsize=11, color=INK, ha="left", va="center", bbox=_paper())
        for b, q in second[a].items():
            way = _way((a, b) == greedy, (a, b) == best)
            _branch(axes, (1.32, branch_y[a]), (2.2, leaf_y[a, b]), q, way)
            axes.text(2.24, leaf_y[a, b], b, fontsize=11, color=INK, ha="left", va="center")
            note = {0: "", 1: "   greedy", 2: "   the likeliest", 3: "   greedy, and the likeliest"}[way]
            axes.text(2.75, leaf_y[a, b], f"{texts[a, b]:.2f}{note}", fontsize=10, va="center",
                      color=(INK, COLOURS[3], COLOURS[0], COLOURS[0])[way])
    axes.set_xlim(-0.1, 3.9)
    axes.set_ylim(-len(texts) + 0.4, 0.6)


def _way(is_greedy: bool, is_best: bool) -> int:
    return int(is_greedy) + 2 * int(is_best)


def _paper() -> dict[str, object]:
    return {"facecolor": "white", "edgecolor": "none", "pad": 2.0}


def _branch(axes: Axes, start: tuple[float, float], end: tuple[float, float], share: float, way: int) -> None:
    colour = (PALE, COLOURS[3], COLOURS[0], COLOURS[0])[way]
    axes.plot([start[0], end[0]], [start[1], end[1]], color=colour, linewidth=1.0 + 5 * share, zorder=0)
    middle = (0.45 * start[0] + 0.55 * end[0], 0.45 * start[1] + 0.55 * end[1])
    axes.text(*middle, f"{share:g}", fontsize=9, color=INK, ha="center", va="center", bbox=_paper())


def written_text(
    axes: Axes, prompt: str, pieces: Sequence[str], loop: Loop | None, title: str, width: int = 52
) -> None:
    r"""Write a text out, the prompt in black, what follows in blue, and the loop that it ends in on coloured paper.

    Args:
        axes: the panel.
        prompt: what was given.
        pieces: the text of each token that was written.
        loop: where they loop, or None.
        title: above the panel.
        width: letters a line.
    """
    axes.set_axis_off()
    inks = [(letter, INK, "white") for letter in _flat(prompt)]
    for place, piece in enumerate(pieces):
        inside = loop is not None and place >= loop.start
        turn = (place - loop.start) // loop.period % 2 if inside else 0
        paper = ("#F3E3B3", "#F9D0B0")[turn] if inside else "white"
        inks += [(letter, COLOURS[0], paper) for letter in _flat(piece)]
    for place, (letter, ink, paper) in enumerate(inks):
        axes.text(place % width, -(place // width), letter, family="monospace", fontsize=8.5, color=ink, ha="center",
                  va="center", bbox={"facecolor": paper, "edgecolor": "none", "pad": 1.1})
    axes.set_xlim(-1, width)
    axes.set_ylim(-max(1, (len(inks) - 1) // width) - 0.7, 0.7)
    axes.set_title(title, fontsize=10, color=INK, loc="left")


def _flat(text: str) -> str:
    return text.replace("\n", "↵")


def trap_picture(points: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    r"""Draw texts by how likely the model finds them and by how varied they are.

    Args:
        points: for each way of writing a point a seed: (nats a token, distinct-4).
    Returns: the picture.
    """
    figure, (axes,) = new_figure(width=7.2, height=4.0)
    for number, (name, seeds) in enumerate(points.items()):
        human = name == "people"
        look = {"marker": "*", "s": 150, "zorder": 4} if human else {"marker": MARKERS[number % len(MARKERS)], "s": 42}
        colour = INK if human else COLOURS[number % len(COLOURS)]
        axes.scatter([x for x, _ in seeds], [y for _, y in seeds], label=name, color=colour, **{"zorder": 3, **look})
    axes.set_xlabel("← likelier        nats a token, by the model        less likely →", fontsize=9, color=INK)
    axes.set_ylabel("distinct-4", fontsize=9, color=INK)
    axes.set_ylim(0, 1.05)
    axes.grid(color=PALE, linewidth=0.6)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def automaton_chain(axes: Axes, labels: Sequence[str], title: str) -> None:
    r"""Draw an automaton that only goes forward: circles, and on each arrow what leads on.

    Args:
        axes: the panel.
        labels: what each arrow takes.
        title: above the panel.
    """
    axes.set_axis_off()
    axes.set_aspect("equal")
    for state in range(len(labels) + 1):
        last = state == len(labels)
        axes.scatter([1.5 * state], [0], s=330, facecolor="#BBD9EE" if last else "white", edgecolor=INK, zorder=3,
                     linewidth=2.6 if last else 1.2)
        axes.text(1.5 * state, 0, str(state), fontsize=9, ha="center", va="center", color=INK, zorder=4)
    for state, label in enumerate(labels):
        axes.annotate("", (1.5 * state + 1.16, 0), (1.5 * state + 0.34, 0),
                      arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 1.2})
        axes.text(1.5 * state + 0.75, 0.22, label, fontsize=9, ha="center", va="bottom", color=INK)
    axes.set_xlim(-0.6, 1.5 * len(labels) + 0.6)
    axes.set_ylim(-0.6, 0.9)
    axes.set_title(title, fontsize=10, color=INK)


def wrapped(text: str, width: int = 100) -> str:
    r"""A text with its line ends written as signs, in lines that fit a page.

    Args:
        text: any text.
        width: letters a line.
    Returns: the lines.
    """
    return "\n".join(textwrap.wrap(_flat(text), width, drop_whitespace=False))
