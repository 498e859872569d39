r"""The sampling explorer: a model's next-token bars under temperature and the filters, and what it writes."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from ipywidgets import FloatSlider, IntSlider, Text
from matplotlib.figure import Figure
from torch import Tensor

from minillm.course.plots import COLOURS, INK, new_figure
from minillm.course.scenes.generation_pictures import choice_bars, visible, wrapped
from minillm.course.widgets import Explorer
from minillm.inference import sampling
from minillm.inference.generate import generate
from minillm.layers import softmax

SHOWN = 14  # bars
WRITTEN = 28  # tokens of each continuation
TELLINGS = 3


@dataclass(frozen=True)
class Choice:
    r"""What there is to choose from for one token.

    Args:
        before: the model's probabilities, (V,).
        after: those that are drawn from, (V,).
    """

    before: Tensor
    after: Tensor

    @property
    def n_kept(self) -> int:
        r"""How many tokens can be drawn."""
        return int((self.after > 0).sum())

    @property
    def entropy(self) -> float:
        r"""Of what is drawn from, in nats."""
        return float(-torch.special.xlogy(self.after, self.after).sum())


def shape_choice(
    logits: Tensor, temperature: float, top_k: int, top_p: float, min_p: float, typical_p: float = 1.0
) -> Choice:
    r"""Put a model's logits through the settings, in the order in which `generate` does.

    Args:
        logits: (V,).
        temperature: at least 0; 0 = greedy.
        top_k: at least 1; V or more changes nothing.
        top_p: in (0, 1]; 1 changes nothing.
        min_p: in [0, 1]; 0 changes nothing.
        typical_p: in (0, 1]; 1 changes nothing.
    Returns: the choice before and after.
    """
    logits = logits.double()
    before = softmax.softmax(logits)
    if temperature == 0:
        return Choice(before, torch.zeros_like(before).index_fill(0, logits.argmax(), 1.0))
    shaped = sampling.apply_temperature(logits, temperature)
    shaped = sampling.top_k_filter(shaped, top_k)
    shaped = sampling.top_p_filter(shaped, top_p)
    shaped = sampling.min_p_filter(shaped, min_p)
    return Choice(before, softmax.softmax(sampling.typical_filter(shaped, typical_p)))


def sampling_picture(
    model: Any,
    tokenizer: Any,
    beginning: str,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    typical_p: float = 1.0,
) -> Figure:
    r"""Draw the bars of the next token, and three continuations with the same settings.

    Args:
        model: token ids -> logits.
        tokenizer: of the model.
        beginning: the text so far.
        temperature: at least 0; 0 = greedy.
        top_k: at least 1.
        top_p: in (0, 1].
        min_p: in [0, 1].
        typical_p: in (0, 1].
    Returns: the picture; if the beginning can't be read, the picture says so.
    """
    figure, (left, right) = new_figure(columns=2, width=9.8, height=4.2)
    right.set_axis_off()
    token_ids = tokenizer.encode(beginning)[-model.config.max_seq_len + WRITTEN :]
    if not token_ids:
        left.set_axis_off()
        left.text(0.5, 0.5, "give a beginning of at least one letter", ha="center", color=COLOURS[3])
        return figure
    prompt = torch.tensor([token_ids])
    with torch.inference_mode():
        choice = shape_choice(model(prompt)[0, -1], temperature, top_k, top_p, min_p, typical_p)
    likeliest = choice.before.argsort(descending=True)[:SHOWN]
    labels = [visible(tokenizer.decode([token_id])) for token_id in likeliest.tolist()]
    title = f"{choice.n_kept} of {len(choice.before)} tokens left, entropy {choice.entropy:.2f} nats"
    choice_bars(left, labels, choice.before[likeliest], choice.after[likeliest], title)
    told = generate(
        model, prompt.repeat(TELLINGS, 1), WRITTEN, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
        typical_p=typical_p, generator=torch.Generator().manual_seed(0))  # fmt: skip
    texts = [wrapped(tokenizer.decode(row[len(token_ids) :].tolist()), 46) for row in told]
    right.text(0, 1, "\n\n".join(f"{number}  {text}" for number, text in enumerate(texts, 1)), fontsize=9, color=INK,
               family="monospace", va="top", transform=right.transAxes, parse_math=False)
    right.set_title(f"It goes on: {TELLINGS} times", fontsize=10, color=INK, loc="left")
    return figure


def sampling_widget(model: Any, tokenizer: Any, beginning: str) -> Explorer:
    r"""Controls for `sampling_picture`.

    Args:
        model: token ids -> logits.
        tokenizer: of the model.
        beginning: to start with.
    Returns: the widget, with a picture where none can run.
    """
    look = {"style": {"description_width": "7em"}, "layout": {"width": "34em"}}
    lazy = {"continuous_update": False, **look}
    return Explorer(
        partial(sampling_picture, model, tokenizer),
        alt=f"After {beginning!r}: bars of the likeliest next tokens, outlined as the model gives them and filled as "
        "they are drawn from at top_p 0.9; and three continuations.",
        beginning=Text(beginning, description="beginning", **lazy),
        temperature=FloatSlider(1.0, min=0.0, max=3.0, step=0.1, description="temperature", **lazy),
        top_k=IntSlider(value=model.config.vocab_size, min=1, max=model.config.vocab_size, description="top-k", **lazy),
        top_p=FloatSlider(0.9, min=0.05, max=1.0, step=0.05, description="top-p", **lazy),
        min_p=FloatSlider(0.0, min=0.0, max=1.0, step=0.02, description="min-p", **lazy),
        typical_p=FloatSlider(1.0, min=0.05, max=1.0, step=0.05, description="typical", **lazy),
    )  # fmt: skip
