r"""Drawings of a block and of the whole model, and of what flows through them."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import Tensor

from minillm.course.plots import COLOURS, INK, PALE, heat_map, new_figure

STREAM, NORM, ATTENTION, FFN, TABLE = INK, "#F3E3B3", "#BBD9EE", "#BFE3D6", "#E9DCEA"
BLOCK_PARTS = {
    "pre-norm (GPT-2, LLaMA)": ("attn_norm", "attn", "+", "ffn_norm", "ffn", "+"),
    "post-norm (Transformer 2017, BERT, GPT-1)": ("attn", "+", "attn_norm", "ffn", "+", "ffn_norm"),
}
FILL = {"attn_norm": NORM, "ffn_norm": NORM, "final_norm": NORM, "attn": ATTENTION, "ffn": FFN}


def block_designs() -> Figure:
    r"""Draw the two designs of a block side by side, from top to bottom; the heavy line is the residual stream.

    Returns: the picture.
    """
    figure, panels = new_figure(columns=2, width=8.6, height=5.2)
    for axes, (title, parts) in zip(panels, BLOCK_PARTS.items(), strict=True):
        _draw_block(axes, title, parts)
    return figure


def whole_model(vocab_size: str = "V", width: str = "D", n_layers: str = "L") -> Figure:
    r"""Draw the model from token ids to logits, with the shapes between the steps.

    Args:
        vocab_size: what to write for the size of the vocabulary.
        width: what to write for d_model.
        n_layers: what to write for the number of blocks.
    Returns: the picture.
    """
    figure, (axes,) = new_figure(width=7.6, height=4.9)
    _clear(axes, (-2.4, 5.0), (7.4, -0.5))
    steps = (
        (0, "token_ids", "white", "(B, T), whole numbers"),
        (1.15, "tok_emb", TABLE, f"a table, {vocab_size} rows: (B, T, {width})"),
        (2.3, "+", "white", f"the residual stream begins: (B, T, {width})"),
        (3.45, f"block, {n_layers} times", ATTENTION, f"each adds to the stream: (B, T, {width})"),
        (4.6, "final_norm", NORM, f"(B, T, {width})"),
        (5.75, "lm_head", TABLE, f"a matrix, {vocab_size} rows; often tok_emb itself"),
        (6.9, "logits", "white", f"(B, T, {vocab_size}): at t, about the token at t + 1"),
    )
    for (y, *_), (below, *_) in zip(steps, steps[1:], strict=False):
        _arrow(axes, (0, y + 0.3), (0, below - 0.32), heavy=2.3 <= y <= 4.6)
    for y, text, colour, shape in steps:
        _box(axes, 0, y, text, colour, width=0.5 if text == "+" else 1.9)
        axes.text(1.25, y, shape, ha="left", va="center", fontsize=10, color=INK)
    _box(axes, -1.75, 1.15, "positions", "white", 1.1, size=10)
    _arrow(axes, (-1.75, 1.42), (-1.75, 2.3), head=False)
    _arrow(axes, (-1.75, 2.3), (-0.3, 2.3))
    axes.text(-1.8, 1.9, "pos_emb", ha="right", va="center", fontsize=10, color=INK)
    return figure


def mask_gallery(masks: Mapping[str, Tensor], labels: Sequence[str] | None = None, width: float = 9.6) -> Figure:
    r"""Draw several masks beside each other: light is what may be seen, a row is a query.

    Args:
        masks: (T, T) bool for each title.
        labels: of the rows and columns; None numbers them.
        width: inches.
    Returns: the picture.
    """
    figure, panels = new_figure(columns=len(masks), width=width, height=width / len(masks) + 0.55)
    for number, (axes, (title, mask)) in enumerate(zip(panels, masks.items(), strict=True)):
        names = [""] * len(mask) if labels is None else list(labels)
        heat_map(axes, mask, names, names, f"{title}\n{int(mask.sum())} pairs", 0, 1)
        axes.set_xticks([x - 0.5 for x in range(1, len(mask))], minor=True)
        axes.set_yticks([y - 0.5 for y in range(1, len(mask))], minor=True)
        axes.grid(which="minor", color="white", linewidth=0.6)
        axes.tick_params(which="minor", length=0)
        axes.set_xlabel("keys", fontsize=9, color=INK)
        if number == 0:
            axes.set_ylabel("queries", fontsize=9, color=INK)
    return figure


def stacked_bars(axes: Axes, parts: Mapping[str, Mapping[str, float]], title: str = "", unit: str = "") -> None:
    r"""Draw a lying bar for each name, made of coloured parts.

    Args:
        axes: the panel.
        parts: for each name a number for each part; all with the same parts.
        title: above the panel.
        unit: what the numbers measure.
    """
    names = list(parts)
    for number, part in enumerate(next(iter(parts.values()))):
        left = [sum(list(parts[name].values())[:number]) for name in names]
        look = {"color": COLOURS[number % len(COLOURS)], "edgecolor": "white", "height": 0.62}
        axes.barh(names, [parts[name][part] for name in names], left=left, label=part, **look)
    axes.invert_yaxis()
    axes.set_xlabel(unit, fontsize=9, color=INK)
    axes.set_title(title, fontsize=10, color=INK)
    axes.grid(axis="x", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)


def _draw_block(axes: Axes, title: str, parts: Sequence[str]) -> None:
    _clear(axes, (-1.9, 2.2), (6.5, -1.3))
    axes.set_title(title, fontsize=11, color=INK)
    pre = parts[0] == "attn_norm"
    side = 1.35
    heavy_from = -0.55
    for y, part in enumerate(parts):
        if part == "+":
            _arrow(axes, (side, heavy_from), (side, y), head=False, heavy=pre)
            _arrow(axes, (side, y), (0.28, y), heavy=pre)
        _box(axes, 0, y, part, FILL.get(part, "white"), width=0.5 if part == "+" else 1.5)
        last = y == len(parts) - 1
        after_branch = part == "+" if pre else part.endswith("_norm")
        _arrow(axes, (0, y + 0.3), (0, y + (1.0 if last else 0.68)), heavy=after_branch)
        if after_branch and not last:
            heavy_from = y + 0.45
            _arrow(axes, (0, heavy_from), (side, heavy_from), head=False, heavy=pre)
    _arrow(axes, (0, -0.85), (0, -0.32), heavy=True)
    _arrow(axes, (0, -0.55), (side, -0.55), head=False, heavy=pre)
    axes.text(0, -0.9, "x", ha="center", va="bottom", fontsize=12, color=INK)
    axes.text(0, 6.15, "x", ha="center", va="top", fontsize=12, color=INK)
    axes.text(side + 0.1, 1.0 if pre else 0.3, "as it is", ha="left", va="center", fontsize=9, color=INK)
    note = "nothing but additions\non the heavy line" if pre else "a norm stands\nin the stream, twice"
    axes.text(-0.95, 3.4 if pre else 2.0, note, ha="right", va="center", fontsize=9, color=INK)


def _clear(axes: Axes, x: tuple[float, float], y: tuple[float, float]) -> None:
    axes.set_axis_off()
    axes.set(xlim=x, ylim=y)


def _box(axes: Axes, x: float, y: float, text: str, colour: str, width: float, size: float = 11) -> None:
    shape = FancyBboxPatch(
        (x - width / 2, y - 0.24), width, 0.48, boxstyle="round,pad=0.04", facecolor=colour, edgecolor=INK, zorder=3
    )
    axes.add_patch(shape)
    axes.text(x, y, text, ha="center", va="center", fontsize=size, color=INK, zorder=4)


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], head: bool = True, heavy: bool = False
) -> None:
    width = 3.2 if heavy else 1.3
    look = {"arrowstyle": "-|>" if head else "-", "color": STREAM, "linewidth": width, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=end, xytext=start, arrowprops=look, zorder=2)
