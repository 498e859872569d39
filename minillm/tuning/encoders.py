r"""Where the trained vectors of a prompt or a prefix come from: a table, or a small network that is thrown away later.

    Vectors          rows of a table                                               k * width numbers
    PromptEncoder    table -> LSTM in both directions or nothing -> two layers     P-tuning; its output is the prompt
    PrefixEncoder    table -> one layer and tanh (for all blocks) -> one layer     prefix tuning; rows for one block

Each is called without an argument and gives (k, width). What the networks give does not depend on the text, so after
training one call replaces each of them by a table.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minillm.config.require import require
from minillm.tuning.card import Card, small_tensors
from minillm.tuning.swapping import swapped

ENCODERS = ("lstm", "mlp")


class Vectors(nn.Module):
    r"""Trained vectors, each a row of a table: an embedding, so that weight decay leaves them alone.

    Args:
        rows: what they are at first, (k, width), float.
    Source: Lester et al. 2021, The Power of Scale for Parameter-Efficient Prompt Tuning, section 2.
    Lesson: 13.
    """

    def __init__(self, rows: Tensor):
        super().__init__()
        self.table = nn.Embedding.from_pretrained(rows.detach().clone(), freeze=False)

    def forward(self) -> Float[Tensor, "k width"]:
        return self.table.weight


class PromptEncoder(nn.Module):
    r"""Vectors of a prompt that know of each other, because one network makes them all.

    Args:
        rows: what it reads, (k, D), float; trained too.
        kind: "lstm" = an LSTM in both directions, then two layers; "mlp" = the two layers alone.
        generator: source of randomness; None means torch's global one.
    Raises:
        ValueError: if the kind is neither, or D is odd for an LSTM.
    Source: Liu et al. 2021, GPT Understands, Too, section 3.2: h_i = MLP([h_i forward : h_i backward]); two layers of
        LSTM, as in the authors' code.
    Lesson: 13.
    """

    def __init__(self, rows: Tensor, kind: str, generator: torch.Generator | None = None):
        super().__init__()
        require(kind in ENCODERS, "encoder", kind, f"use one of {[*ENCODERS]}, or None")
        width = rows.shape[1]
        require(kind == "mlp" or width % 2 == 0, "encoder", kind,
                f"its two directions share d_model={width}, use an even width or 'mlp'")
        self.rows = Vectors(rows)
        self.lstm = None
        if kind == "lstm":
            self.lstm = nn.LSTM(width, width // 2, num_layers=2, bidirectional=True, device="meta")
        self.inner, self.outer = (nn.Linear(width, width, device="meta") for _ in range(2))
        for part in filter(None, (self.lstm, self.inner, self.outer)):
            _fill(part, rows, generator)

    def forward(self) -> Float[Tensor, "k D"]:
        h = self.rows()
        if self.lstm is not None:
            h = self.lstm(h)[0]
        return self.outer(self.inner(h).relu())


class PrefixTrunk(nn.Module):
    r"""The part of a prefix's network that all blocks share: a table, one layer, tanh.

    Args:
        rows: what it reads, (l, width), float; trained too.
        generator: source of randomness; None means torch's global one.
    Source: Li and Liang 2021, Prefix-Tuning, section 4.3.
    Lesson: 13.
    """

    def __init__(self, rows: Tensor, generator: torch.Generator | None = None):
        super().__init__()
        self.rows = Vectors(rows)
        self.inner = nn.Linear(rows.shape[1], rows.shape[1], device="meta")
        _fill(self.inner, rows, generator)

    def forward(self) -> Float[Tensor, "l width"]:
        return self.inner(self.rows()).tanh()


class PrefixEncoder(nn.Module):
    r"""One block's keys and values, read out of what the trunk makes.

    Args:
        trunk: shared with the other blocks.
        d_out: numbers for each token of the prefix, 2 * Hk * Dh.
        generator: source of randomness; None means torch's global one.
    Source: Li and Liang 2021, Prefix-Tuning, section 4.3, cut into blocks.
    Lesson: 13.
    """

    def __init__(self, trunk: PrefixTrunk, d_out: int, generator: torch.Generator | None = None):
        super().__init__()
        self.trunk = trunk
        rows = trunk.rows()
        self.outer = nn.Linear(rows.shape[1], d_out, device="meta")
        _fill(self.outer, rows, generator)

    def forward(self) -> Float[Tensor, "l d_out"]:
        return self.outer(self.trunk())


def without_encoders(model: nn.Module) -> nn.Module:
    r"""The same tuned model with tables in the place of the networks that made its vectors: nothing it says changes.

    Args:
        model: tuned; not changed.
    Returns: a new model that shares all other numbers, whose card says P-tuning without an encoder, or P-tuning v2 for
        prefixes, which it now is; the model itself if it has no such networks.
    Source: Liu et al. 2021, GPT Understands, Too, section 3.2; Li and Liang 2021, Prefix-Tuning, section 4.3.
    Lesson: 13.
    """
    if not any(isinstance(module, PromptEncoder | PrefixEncoder) for module in model.modules()):
        return model

    def table(name: str, module: nn.Module) -> nn.Module | None:
        with torch.no_grad():
            return Vectors(module()) if isinstance(module, PromptEncoder | PrefixEncoder) else None

    twin = swapped(model, table)
    if hasattr(model, "card"):
        own = {tensor.data_ptr() for tensor in small_tensors(model).values()}
        twin.card = _finished_card(model.card)
        twin.small_names = tuple(name for name, parameter in twin.named_parameters()
                                 if parameter.requires_grad or parameter.data_ptr() in own)
    return twin


def _finished_card(card: Card | None) -> Card | None:
    if card is None:
        return None
    card = replace(card, before=_finished_card(card.before))
    if card.method == "p_tuning":
        return replace(card, settings={**card.settings, "encoder": None})
    if card.method == "prefix_tuning":
        return replace(card, method="p_tuning_v2", settings={"length": card.settings["length"]})
    return card


def _fill(part: nn.Module, like: Tensor, generator: torch.Generator | None) -> None:
    r"""Fresh numbers for a layer made without any, as torch would draw them: uniform in +-1/sqrt(what a unit reads)."""
    part.to_empty(device=like.device).to(like.dtype)
    reads = part.hidden_size if isinstance(part, nn.LSTM) else part.in_features
    with torch.no_grad():
        for parameter in part.parameters():
            fresh = torch.rand(parameter.shape, generator=generator) * 2 - 1
            parameter.copy_(fresh / reads**0.5)
