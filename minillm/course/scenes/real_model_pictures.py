r"""Pictures of lesson 16: where the weights sit, what comes next, how sure a score is, and how an answer is found."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from minillm.config import ModelConfig
from minillm.course.plots import COLOURS, INK, PALE, new_figure
from minillm.course.scenes.generation_pictures import visible
from minillm.inference.calibration import Bin
from minillm.model import counting


def weights_picture(configs: Mapping[str, ModelConfig]) -> Figure:
    r"""Draw which parts the weights of some models belong to, as shares of all.

    Args:
        configs: a configuration for each name.
    Returns: the picture: one bar a model.
    """
    figure, (axes,) = new_figure(width=8.6, height=0.75 * len(configs) + 1.2)
    parts = {"token embedding": ("embedding", "position", "lm_head"), "attention": ("attention",),
             "FFN": ("ffn", "norm")}
    labels = []
    for row, (name, config) in enumerate(configs.items()):
        counts, left = counting.count_parameters(config), 0.0
        labels.append(f"{name}\n{counts['total'] / 1e6:,.1f} million")
        for number, (part, names) in enumerate(parts.items()):
            share = sum(counts[each] for each in names) / counts["total"]
            axes.barh(row, share, left=left, color=COLOURS[number], height=0.62, label=None if row else part)
            if share > 0.06:
                axes.text(left + share / 2, row, f"{share:.0%}", ha="center", va="center", fontsize=9, color="white",
                          fontweight="bold")
            left += share
    axes.set_yticks(range(len(configs)), labels)
    axes.set(ylim=(len(configs) - 0.5, -0.5), xlim=(0, 1), xticks=[])
    axes.spines[["bottom", "left"]].set_visible(False)
    axes.tick_params(length=0)
    figure.legend(loc="outside lower center", ncols=len(parts), fontsize=9, frameon=False)
    return figure


def next_token_panels(model: Any, tokenizer: Any, texts: Sequence[str], top_k: int = 5) -> Figure:
    r"""Draw what a model holds likeliest after each of some texts.

    Args:
        model: a GPT, in evaluation mode.
        tokenizer: of the model.
        texts: none empty.
        top_k: tokens shown.
    Returns: the picture: a panel a text.
    """
    figure, panels = new_figure(len(texts), width=2.75 * len(texts), height=2.5)
    for axes, text in zip(panels, texts, strict=True):
        with torch.inference_mode():
            probs = model(torch.tensor([tokenizer.encode(text)]))[0, -1].float().softmax(-1)
        best = probs.topk(top_k)
        axes.barh(range(top_k), best.values.tolist(), color=COLOURS[0], height=0.62)
        for row, p in enumerate(best.values.tolist()):
            axes.text(p + 0.02, row, f"{p:.2f}", va="center", fontsize=8, color=INK)
        axes.set_yticks(range(top_k), [visible(tokenizer.decode([i])) for i in best.indices.tolist()])
        axes.set(ylim=(top_k - 0.4, -0.6), xlim=(0, 1.15), xticks=[])
        axes.spines["bottom"].set_visible(False)
        axes.set_title(f"{text} …", fontsize=9, color=INK)
    return figure


def reliability_panel(axes: Axes, bins: Sequence[Bin], title: str) -> None:
    r"""Draw for each bin of confidences how often answers were right; a model that knows itself is on the diagonal.

    Args:
        axes: the panel.
        bins: from `calibration_bins`.
        title: above the panel.
    """
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1.0, linestyle=(0, (2, 2)))
    for each in bins:
        width = each.high - each.low
        axes.bar(each.low + width / 2, each.accuracy, width=0.92 * width, color=PALE, edgecolor=COLOURS[0])
        axes.plot([each.confidence] * 2, [each.accuracy, each.confidence], color=COLOURS[3], linewidth=2.5)
        axes.text(each.low + width / 2, 0.015, str(each.count), ha="center", va="bottom", fontsize=8, color=INK)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal")
    axes.set_xlabel("how sure it was", fontsize=9, color=INK)
    axes.set_ylabel("share that is right", fontsize=9, color=INK)
    axes.set_title(title, fontsize=10, color=INK)


CHAIN = (
    ("local text", "50 notes"), ("passages", "cut it"), ("index", "words, vectors"), ("top k", "rank for\na question"),
    ("prompt", "instruction,\npassages,\nquestion"), ("model", "writes"), ("answer", "check it"),
)  # fmt: skip


def chain_picture() -> Figure:
    r"""Draw the chain of an answer from local text, what is done once before what is done for each question.

    Returns: the picture.
    """
    figure, (axes,) = new_figure(width=10.0, height=2.0)
    for place, (name, what) in enumerate(CHAIN):
        once = place < 3
        look = {"facecolor": "#DCEBF5" if once else "#FBE7C6", "edgecolor": COLOURS[0 if once else 1]}
        axes.add_patch(FancyBboxPatch((place, 0.0), 0.72, 0.9, boxstyle="round,pad=0.03", linewidth=1.4, **look))
        axes.text(place + 0.36, 0.76, name, ha="center", va="center", fontsize=10, color=INK, fontweight="bold")
        axes.text(place + 0.36, 0.32, what, ha="center", va="center", fontsize=8, color=INK)
        if place:
            axes.annotate("", (place - 0.04, 0.45), (place - 0.24, 0.45), arrowprops={"arrowstyle": "->", "color": INK})
    axes.text(1.36, 1.05, "once", ha="center", fontsize=9, color=COLOURS[0])
    axes.text(4.86, 1.05, "for each question", ha="center", fontsize=9, color=INK)
    axes.set_axis_off()
    axes.set(xlim=(-0.1, len(CHAIN) - 0.15), ylim=(-0.1, 1.25))
    return figure


def recall_panel(axes: Axes, recalls: Mapping[str, tuple[float, float]], names: tuple[str, str], title: str) -> None:
    r"""Draw for several ways of searching how often two kinds of questions find their passage.

    Args:
        axes: the panel.
        recalls: for each way the recall of both kinds of questions.
        names: of the kinds.
        title: above the panel.
    """
    for kind, name in enumerate(names):
        places = [row + 0.19 - 0.38 * (1 - kind) for row in range(len(recalls))]
        values = [each[kind] for each in recalls.values()]
        axes.barh(places, values, height=0.34, color=COLOURS[kind], label=name)
        for place, value in zip(places, values, strict=True):
            axes.text(value + 0.012, place, f"{value:.2f}", va="center", fontsize=8, color=INK)
    axes.set_yticks(range(len(recalls)), list(recalls))
    axes.set(ylim=(len(recalls) - 0.5, -0.5), xlim=(0, 1.12), xticks=[0, 0.5, 1])
    axes.tick_params(axis="y", length=0)
    axes.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0.0, -0.36), ncols=2)
    axes.set_title(title, fontsize=10, color=INK)
