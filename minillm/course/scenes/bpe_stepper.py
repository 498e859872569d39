r"""The BPE stepper: merge after merge, watch the tokens of a small text grow, and see which pair comes next."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ipywidgets import Dropdown, IntSlider, Widget
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import MaxNLocator

from minillm.course.plots import COLOURS, INK, PALE, new_figure
from minillm.text import bpe
from minillm.text.byte_tokenizer import utf8_bytes

TEXTS = {
    "a rhyme": "the hotter the pot, the hotter the hot pot; a pot is not hot when the potter is not",
    "numbers": "12 and 21 and 112 and 1212 and 2112 and 12121",
    "Chinese, as bytes": "红红的花，红红的果，红花红果红红火火",
    "accents": "déjà vu, déjà lu, déjà su",
}
MOST_MERGES = 30
LINE_WIDTH = 62.0  # of tokens, in letters
SPACE = "\u2423"  # how a space is drawn
SHOWN_PAIRS = 6


@dataclass(frozen=True)
class MergeStep:
    r"""What BPE sees before a merge.

    Args:
        chunks: the token ids of each chunk of the text.
        token_bytes: the bytes of every token so far, by id.
        counts: how often each pair of neighbours occurs.
        best: the pair that is merged next; None at the end.
    """

    chunks: tuple[tuple[int, ...], ...]
    token_bytes: tuple[bytes, ...]
    counts: dict[tuple[int, int], int]
    best: tuple[int, int] | None

    @property
    def n_tokens(self) -> int:
        r"""How many tokens the text has now.

        Returns: the sum over the chunks.
        """
        return sum(map(len, self.chunks))


def merge_steps(text: str, n_merges: int, min_count: int = 2) -> list[MergeStep]:
    r"""Run BPE on a text, and keep every state.

    Args:
        text: the text.
        n_merges: merges at most.
        min_count: a rarer pair is not merged.
    Returns: the state before each merge, and the last one: at most n_merges + 1, fewer if nothing is left to merge.
    """
    chunks = [list(utf8_bytes(chunk)) for chunk in bpe.split_chunks(text)]
    token_bytes = [bytes([i]) for i in range(256)]
    steps: list[MergeStep] = []
    while True:
        counts: Counter[tuple[int, int]] = Counter()
        for chunk in chunks:
            counts.update(bpe.count_pairs(chunk))
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < min_count:
            best = None
        steps.append(MergeStep(tuple(map(tuple, chunks)), tuple(token_bytes), dict(counts), best))
        if best is None or len(steps) > n_merges:
            return steps
        chunks = [bpe.merge_pair(chunk, best, len(token_bytes)) for chunk in chunks]
        token_bytes.append(token_bytes[best[0]] + token_bytes[best[1]])


def token_label(token: bytes) -> str:
    r"""How a token is written in a picture.

    Args:
        token: its bytes.
    Returns: the letters, a space as an open box; bytes in hexadecimal where they are no text, or text in a script that
        the picture's font does not have.
    """
    try:
        text = token.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    if text and all(sign.isprintable() and ord(sign) < 0x250 for sign in text):
        return text.replace(" ", SPACE)
    return token.hex(" ").upper()


def place_tokens(labels: Sequence[Sequence[str]], width: float = LINE_WIDTH) -> list[tuple[float, int, float]]:
    r"""Lay tokens out in lines, as words in a book.

    Args:
        labels: of the tokens of each chunk.
        width: of a line, in letters.
    Returns: for each token its left edge, its line from 0, and its width; no chunk is torn if it fits into a line.
    """
    places = []
    left, line = 0.0, 0
    for chunk in labels:
        sizes = [len(label) + 0.8 for label in chunk]
        if left > 0 and left + sum(sizes) > width:
            left, line = 0.0, line + 1
        for size in sizes:
            if left > 0 and left + size > width:
                left, line = 0.0, line + 1
            places.append((left, line, size))
            left += size
        left += 0.7
    return places


def draw_tokens(axes: Axes, labels: Sequence[Sequence[str]], long: Sequence[Sequence[bool]], n_lines: int) -> None:
    r"""Draw each token as a box.

    Args:
        axes: the panel.
        labels: of the tokens of each chunk.
        long: whether a token is more than a byte, and so drawn in colour.
        n_lines: lines that the panel has at least.
    """
    places = place_tokens(labels)
    flat_labels = [label for chunk in labels for label in chunk]
    flat_long = [flag for chunk in long for flag in chunk]
    for (left, line, size), label, coloured in zip(places, flat_labels, flat_long, strict=True):
        look = {"facecolor": "#CFE5F3" if coloured else "white", "edgecolor": COLOURS[0] if coloured else "#888888"}
        box = FancyBboxPatch((left + 0.12, -line - 0.36), size - 0.24, 0.72, boxstyle="round,pad=0,rounding_size=0.2")
        box.set(linewidth=1.0, **look)
        axes.add_patch(box)
        axes.text(left + size / 2, -line, label, ha="center", va="center", fontsize=8, color=INK, family="monospace")
    axes.set(xlim=(-0.5, LINE_WIDTH + 0.5), ylim=(-max([n_lines - 1, *(line for _, line, _ in places)]) - 0.7, 0.7))
    axes.set_axis_off()


def stepper_picture(text: str, merges: int) -> Figure:
    r"""Draw a text after some merges, and the pairs among which the next one is chosen.

    Args:
        text: the name of one of TEXTS, or any short text.
        merges: how many merges have been made; fewer if nothing was left to merge.
    Returns: the picture.
    """
    steps = merge_steps(TEXTS.get(text, text), merges)
    step, done = steps[-1], len(steps) - 1
    labels = [[token_label(step.token_bytes[i]) for i in chunk] for chunk in step.chunks]
    figure, (upper, lower) = new_figure(2, width=9.4, height=4.6)
    grid = figure.add_gridspec(2, 1, height_ratios=(1.1, 1))
    upper.set_subplotspec(grid[0])
    lower.set_subplotspec(grid[1])
    long = [[len(step.token_bytes[i]) > 1 for i in chunk] for chunk in step.chunks]
    draw_tokens(upper, labels, long, n_lines=4)
    n_bytes = sum(len(step.token_bytes[i]) for chunk in step.chunks for i in chunk)
    merged = f"merge {done} made {token_label(step.token_bytes[-1])!r}; " if done else ""
    upper.set_title(f"{done} merges: {n_bytes} bytes are {step.n_tokens} tokens", fontsize=11, color=INK)
    shown = sorted(step.counts, key=lambda pair: (-step.counts[pair], pair))[:SHOWN_PAIRS]
    names = [" + ".join(token_label(step.token_bytes[i]) for i in pair) for pair in shown]
    bars = lower.barh(range(len(shown)), [step.counts[pair] for pair in shown], height=0.65)
    for bar, pair in zip(bars, shown, strict=True):
        bar.set_color(COLOURS[1] if pair == step.best else PALE)
    lower.bar_label(bars, fontsize=9, color=INK, padding=3)
    lower.set_yticks(range(len(shown)), names, fontsize=9, family="monospace")
    lower.invert_yaxis()
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    lower.set_xlim(0, 1.1 * max(step.counts.values(), default=1))
    next_one = "next: the most frequent pair" if step.best else "no pair occurs twice: the end"
    lower.set_title(merged + next_one, fontsize=10, color=INK)
    return figure


def stepper_controls(merges: int = 6) -> dict[str, Widget]:
    r"""The controls of the stepper.

    Args:
        merges: where the slider starts.
    Returns: a widget for each argument of `stepper_picture`.
    """
    look = {"style": {"description_width": "5em"}, "layout": {"width": "34em"}}
    return {
        "text": Dropdown(options=list(TEXTS), value="a rhyme", description="text", **look),
        "merges": IntSlider(value=merges, min=0, max=MOST_MERGES, description="merges", **look),
    }


def segmentation_picture(rows: dict[str, list[bytes]]) -> Figure:
    r"""Draw one text as several tokenizers cut it.

    Args:
        rows: for each tokenizer the bytes of the text's tokens.
    Returns: the picture, a panel above the other.
    """
    figure, panels = new_figure(len(rows), width=9.4, height=1.15 * len(rows) + 0.4)
    grid = figure.add_gridspec(len(rows), 1)
    for number, (axes, (name, tokens)) in enumerate(zip(panels, rows.items(), strict=True)):
        axes.set_subplotspec(grid[number])
        draw_tokens(axes, [[token_label(token) for token in tokens]], [[len(token) > 1 for token in tokens]], 2)
        axes.set_title(f"{name}: {len(tokens)} tokens", fontsize=10, color=INK, loc="left")
    return figure
