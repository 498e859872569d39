r"""The lens explorer: move through the layers of a real model; what does each head read, and what is said so far?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from ipywidgets import Dropdown, IntSlider, Widget
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from minillm.course.plots import COLOURS, INK, PALE, heat_map, new_figure
from minillm.inference.logit_lens import LensTops, lens_tops
from minillm.layers.recorder import record

LAST_DRAWN = 0x500  # letters from here on are not in the pictures' font
MOST_TOKENS = 24  # that a picture has room for


@dataclass(frozen=True, eq=False)
class Inside:
    r"""What a model did with a text.

    Args:
        tokens: its T tokens, as `shown_token` writes them.
        attn_weights: (L, H, T, T), float32.
        tops: what each layer would say at each place.
    """

    tokens: tuple[str, ...]
    attn_weights: Tensor
    tops: LensTops


def shown_token(text: str) -> str:
    r"""A token as a label: blanks become dots, so that they can be seen; what the font lacks becomes a box.

    Args:
        text: of one token.
    Returns: the label, which matplotlib draws as it is.
    """
    seen = text.replace(" ", "·").replace("\n", "\\n").replace("\t", "\\t")
    drawn = "".join(letter if letter.isprintable() and ord(letter) < LAST_DRAWN else "□" for letter in seen)
    return drawn.replace("$", r"\$") or "□"


def look_inside(model: Any, tokenizer: Any, text: str, top_k: int = 5) -> Inside:
    r"""Let a model read a text, and keep its attention weights and what each layer would say.

    Args:
        model: a GPT whose attention reports its weights, in evaluation mode.
        tokenizer: of the model.
        text: short; of MOST_TOKENS tokens at most.
        top_k: likeliest tokens that are kept for each layer and place.
    Returns: what the explorer shows.
    Raises:
        ValueError: if the text has no token, or too many.
    """
    ids = tokenizer.encode(text)
    if not 1 <= len(ids) <= MOST_TOKENS:
        raise ValueError(f"text has {len(ids)} tokens: use 1 to {MOST_TOKENS}, or the labels run into each other")
    token_ids = torch.tensor([ids], device=next(model.parameters()).device)
    with record("attn_weights") as tape, torch.no_grad():
        model(token_ids)
    weights = torch.stack([layer[0].float().cpu() for layer in tape["attn_weights"]])
    tokens = tuple(shown_token(tokenizer.decode([token_id])) for token_id in ids)
    return Inside(tokens, weights, lens_tops(model, tokenizer, token_ids, top_k))


def lens_picture(inside: Inside, layer: int, head: int, place: int) -> Figure:
    r"""Draw the attention of one head, and what all layers would say at one place.

    Args:
        inside: from `look_inside`.
        layer: 1 to L: the block whose head is drawn, and the line of the lens that is framed.
        head: 1 to H.
        place: of the token that reads, counted from 0.
    Returns: the picture.
    Raises:
        ValueError: if there is no such layer, head or place.
    """
    n_layers, n_heads, n_tokens, _ = inside.attn_weights.shape
    if not (1 <= layer <= n_layers and 1 <= head <= n_heads and 0 <= place < n_tokens):
        raise ValueError(f"layer={layer}, head={head}, place={place}: there are {n_layers} layers of {n_heads} heads, "
                         f"counted from 1, and {n_tokens} places, counted from 0")
    figure, (left, right) = new_figure(2, width=10.4, height=5.6)
    grid = figure.add_gridspec(1, 2, width_ratios=(1.25, 1))
    left.set_subplotspec(grid[0])
    right.set_subplotspec(grid[1])
    title = f"layer {layer}, head {head}: a row reads from the columns"
    heat_map(left, inside.attn_weights[layer - 1, head - 1], inside.tokens, inside.tokens, title, low=0.0, high=1.0)
    left.tick_params(axis="x", rotation=90)
    left.tick_params(labelsize=8)
    frame = {"fill": False, "edgecolor": COLOURS[3], "linewidth": 2}
    left.add_patch(Rectangle((-0.5, place - 0.5), n_tokens, 1, **frame))
    _draw_lens(right, inside.tops, layer, place, inside.tokens[place])
    return figure


def lens_controls(inside: Inside, layer: int, head: int, place: int | None = None) -> dict[str, Widget]:
    r"""The controls of the explorer.

    Args:
        inside: from `look_inside`.
        layer: where its slider starts.
        head: where its slider starts.
        place: where the menu starts; None = at the last token.
    Returns: a widget for each of the last three arguments of `lens_picture`.
    """
    n_layers, n_heads, n_tokens, _ = inside.attn_weights.shape
    look = {"style": {"description_width": "6em"}, "layout": {"width": "32em"}}
    choices = [(f"{i + 1}  {token}", i) for i, token in enumerate(_menu_texts(inside.tokens))]
    return {
        "layer": IntSlider(value=layer, min=1, max=n_layers, description="layer", **look),
        "head": IntSlider(value=head, min=1, max=n_heads, description="head", **look),
        "place": Dropdown(options=choices, value=n_tokens - 1 if place is None else place, description="token", **look),
    }


def _menu_texts(tokens: Sequence[str]) -> list[str]:
    return [token.replace(r"\$", "$") for token in tokens]


def _draw_lens(axes: Axes, tops: LensTops, layer: int, place: int, token: str) -> None:
    r"""A bar a layer: the likeliest next token, and how likely; in one colour where it is what is said in the end."""
    final = tops.texts[-1][place][0]
    for number, (texts, probabilities) in enumerate(zip(tops.texts, tops.probabilities[:, place], strict=True)):
        likeliest = texts[place][0]
        axes.barh(number, float(probabilities[0]), color=COLOURS[0 if likeliest == final else 5], height=0.8)
        axes.text(float(probabilities[0]) + 0.01, number, shown_token(likeliest), va="center", fontsize=7.5, color=INK,
                  clip_on=True)
    n_lines = len(tops.texts)
    axes.set_yticks(range(0, n_lines, 5))
    axes.set_yticks(range(n_lines), minor=True)
    axes.add_patch(Rectangle((0, layer - 0.5), 1.2, 1, fill=False, edgecolor=COLOURS[3], linewidth=1.5))
    axes.set_ylim(n_lines - 0.4, -0.6)
    axes.set_xlim(0, 1.2)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.grid(axis="x", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    axes.set_ylabel("after layer", fontsize=9, color=INK)
    axes.set_xlabel("probability of the likeliest next token", fontsize=9, color=INK)
    rank = int(tops.ranks[layer, place])
    first = "  ".join(shown_token(text) for text in tops.texts[layer][place][:5])
    axes.set_title(f"next after {token}: in the end {shown_token(final)} (dark)\n"
                   f"after layer {layer} that is number {rank + 1}; first come  {first}", fontsize=9, color=INK)
