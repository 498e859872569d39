r"""What a tuned model says of itself: which methods made it, with what settings, and which numbers are its own."""

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Card:
    r"""One method that was applied to a model: enough to do it again.

    Args:
        method: its name in `methods.METHODS`.
        settings: its arguments, as plain JSON data.
        before: of the method that was applied before this one; None = it was the first.
    Lesson: 13.
    """

    method: str
    settings: dict[str, Any]
    before: "Card | None" = None

    def steps(self) -> "list[Card]":
        r"""All methods, the first one first, each without its past."""
        return [*(self.before.steps() if self.before else []), replace(self, before=None)]


def signed(tuned: nn.Module, model: nn.Module, method: str, **settings: Any) -> nn.Module:
    r"""Give a tuned model its card, and note which of its parameters are not the base's.

    These are the parameters that need gradients now, and those of earlier methods that are still in it.

    Args:
        tuned: what the method has made, by `swapping.swapped`; gets `.card` and `.small_names`.
        model: what it was made of, plain or itself tuned.
        method: its name in `methods.METHODS`.
        settings: with which METHODS[method](model, **settings) makes the like of it; JSON data.
    Returns: tuned.
    Raises:
        ValueError: if a setting is not JSON data.
    Lesson: 13.
    """
    try:
        plain = json.loads(json.dumps(settings, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"settings={settings!r}: hold something that is not JSON data ({error})") from error
    return _with_card(tuned, model, Card(method, plain, getattr(model, "card", None)))


def unsigned(tuned: nn.Module, model: nn.Module, methods: Collection[str]) -> nn.Module:
    r"""Take methods off a model's card whose work is no longer to be seen, because it was merged.

    Args:
        tuned: without their modules; changed: it has a card only if another method has its modules in it.
        model: what it was made of, with its card.
        methods: that are gone.
    Returns: tuned.
    Lesson: 13.
    """
    card = None
    for step in model.card.steps() if hasattr(model, "card") else []:
        card = card if step.method in methods else replace(step, before=card)
    if card is None:
        for name in ("card", "small_names"):
            tuned.__dict__.pop(name, None)
        return tuned
    return _with_card(tuned, model, card)


def small_tensors(model: nn.Module) -> dict[str, Tensor]:
    r"""The numbers of a tuned model that are not its base's: all that a file has to hold.

    Args:
        model: with a card.
    Returns: parameters by name, as they stand (to write into them changes the model).
    Raises:
        ValueError: if it has no card.
    Lesson: 13.
    """
    if not hasattr(model, "card"):
        raise ValueError(f"model={type(model).__name__}: is no tuned model; make one with minillm.tuning.lora(model), "
                         "or another method")
    parameters = dict(model.named_parameters())
    return {name: parameters[name].detach() for name in model.small_names}


def _with_card(tuned: nn.Module, model: nn.Module, card: Card) -> nn.Module:
    earlier = set()
    if hasattr(model, "card"):
        earlier = {tensor.data_ptr() for tensor in small_tensors(model).values()}
    tuned.card = card
    tuned.small_names = tuple(name for name, parameter in tuned.named_parameters()
                              if parameter.requires_grad or parameter.data_ptr() in earlier)
    return tuned
