r"""The echo language, and for each family of models its loss on it and what it is measured by.

An echo is eight random symbols, then the same eight again. So a symbol of the second half can be told from the left, a
symbol of the first half only by looking ahead, and what nobody can tell costs ln(SYMBOLS) nats.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillm.text.corruption import corrupt_spans, mask_tokens
from minillm.text.infilling import blank_infilling

HALF, SYMBOLS = 8, 12
BLANK, START, END, SENTINEL = SYMBOLS, SYMBOLS + 1, SYMBOLS + 2, SYMBOLS + 3
VOCAB = SENTINEL + 3
BATCH_SIZE = 64


def echo_batch(batch_size: int, generator: torch.Generator) -> Tensor:
    r"""Texts of the echo language.

    Args:
        batch_size: B.
        generator: the source of chance; it is advanced.
    Returns: (B, 2 * HALF) int64, the second half equal to the first.
    """
    half = torch.randint(SYMBOLS, (batch_size, HALF), generator=generator)
    return torch.cat([half, half], dim=1)


def surprise(logits: Tensor, targets: Tensor) -> Tensor:
    r"""Mean cross-entropy over all targets that are not -100.

    Args:
        logits: (B, T, V).
        targets: (B, T), int64.
    Returns: a scalar, nats.
    """
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)


def gpt_loss(model: nn.Module, generator: torch.Generator) -> Tensor:
    r"""GPT: each token from those before it.

    Args:
        model: a `GPT`.
        generator: the source of chance.
    Returns: a scalar, nats.
    """
    text = echo_batch(BATCH_SIZE, generator)
    return surprise(model(text[:, :-1]), text[:, 1:])


def bert_loss(model: nn.Module, generator: torch.Generator) -> Tensor:
    r"""BERT: hidden tokens from all others.

    Args:
        model: a `MaskedLM`.
        generator: the source of chance.
    Returns: a scalar, nats.
    """
    text = echo_batch(BATCH_SIZE, generator)
    corrupted, targets = mask_tokens(text, BLANK, SYMBOLS, generator)
    return surprise(model(corrupted), targets)


def t5_loss(model: nn.Module, generator: torch.Generator) -> Tensor:
    r"""T5: the encoder reads a text with two holes, the decoder writes what was in them.

    Args:
        model: an `EncoderDecoder`.
        generator: the source of chance.
    Returns: a scalar, nats; of the hidden symbols alone.
    """
    return _span_surprise(model, echo_batch(BATCH_SIZE, generator), _two_holes(BATCH_SIZE, generator))


def _two_holes(n_rows: int, generator: torch.Generator) -> Tensor:
    r"""Two places a row, not side by side and not the two that echo each other; in order."""
    first = torch.randint(2 * HALF, (n_rows,), generator=generator)
    gap = torch.randint(2, HALF, (n_rows,), generator=generator)
    return torch.stack([first, (first + gap) % (2 * HALF)], dim=1).sort(dim=1).values


def _span_surprise(model: nn.Module, text: Tensor, holes: Tensor) -> Tensor:
    sentinels = [SENTINEL + i for i in range(holes.shape[1] + 1)]
    pairs = [corrupt_spans(row, [(hole, hole + 1) for hole in places], sentinels)
             for row, places in zip(text.tolist(), holes.tolist(), strict=True)]
    source, target = (torch.tensor(part) for part in zip(*pairs, strict=True))
    targets = target[:, 1:]
    return surprise(model(source, target[:, :-1]), targets.masked_fill(targets >= SENTINEL, -100))


def glm_loss(model: nn.Module, generator: torch.Generator) -> Tensor:
    r"""GLM: one stack reads the text with a blank both ways and writes the missing span behind it.

    Args:
        model: a `BlankFiller`.
        generator: the source of chance.
    Returns: a scalar, nats; of the hidden symbol alone.
    """
    hole = int(torch.randint(2 * HALF, (), generator=generator))
    return _infill_surprise(model, echo_batch(BATCH_SIZE, generator), hole)


def _infill_surprise(model: nn.Module, text: Tensor, hole: int) -> Tensor:
    cuts = [blank_infilling(row, [(hole, hole + 1)], BLANK, START, END) for row in text.tolist()]
    token_ids, targets = (torch.stack([getattr(cut, name) for cut in cuts]) for name in ("token_ids", "targets"))
    logits = model(token_ids, cuts[0].text_positions, cuts[0].span_positions, cuts[0].order)
    return surprise(logits, targets.masked_fill(targets == END, -100))


def xlnet_loss(model: nn.Module, generator: torch.Generator) -> Tensor:
    r"""XLNet: the tokens in a random order, each from those that came before it in that order.

    Args:
        model: a `PermutationLM`.
        generator: the source of chance.
    Returns: a scalar, nats.
    """
    text = echo_batch(BATCH_SIZE, generator)
    ranks = torch.rand(text.shape, generator=generator).argsort(dim=1)
    return surprise(model(text, ranks), text)


def translation_loss(model: nn.Module, generator: torch.Generator) -> Tensor:
    r"""The first Transformer: from a sentence to its translation, here the symbols backwards, each one number up.

    Args:
        model: an `EncoderDecoder`.
        generator: the source of chance.
    Returns: a scalar, nats.
    """
    source = torch.randint(SYMBOLS, (BATCH_SIZE, HALF), generator=generator)
    target = (source.flip(1) + 1) % SYMBOLS
    start = torch.full((BATCH_SIZE, 1), START)
    return surprise(model(source, torch.cat([start, target[:, :-1]], dim=1)), target)


def gpt_measures(model: nn.Module, generator: torch.Generator) -> dict[str, float]:
    r"""What a GPT makes of a hole in the first half (it sees only the left), and of the second half.

    Args:
        model: a trained `GPT`.
        generator: the source of chance.
    Returns: nats for `hole` and `echo`.
    """
    text = echo_batch(4 * BATCH_SIZE, generator)
    logits = model(text[:, :-1])
    return {"hole": float(surprise(logits[:, : HALF - 1], text[:, 1:HALF])),
            "echo": float(surprise(logits[:, HALF - 1 :], text[:, HALF:]))}


def bert_measures(model: nn.Module, generator: torch.Generator) -> dict[str, float]:
    r"""What BERT makes of one hole in the first half.

    Args:
        model: a trained `MaskedLM`.
        generator: the source of chance.
    Returns: nats for `hole`.
    """
    text = echo_batch(HALF * BATCH_SIZE, generator)
    hidden = torch.arange(2 * HALF) == (torch.arange(len(text)) % HALF)[:, None]
    return {"hole": float(surprise(model(text.masked_fill(hidden, BLANK)), text.masked_fill(~hidden, -100)))}


def xlnet_measures(model: nn.Module, generator: torch.Generator) -> dict[str, float]:
    r"""What XLNet makes of a hole (predicted last of all) and of the second half (in the order of the text).

    Args:
        model: a trained `PermutationLM`.
        generator: the source of chance.
    Returns: nats for `hole` and `echo`.
    """
    text, places = echo_batch(4 * BATCH_SIZE, generator), torch.arange(2 * HALF)
    holes = []
    for hole in range(HALF):
        ranks = torch.where(places == hole, 2 * HALF - 1, places - (places > hole).long())
        holes.append(float(surprise(model(text, ranks)[:, hole : hole + 1], text[:, hole : hole + 1])))
    logits = model(text, places)
    return {"hole": sum(holes) / HALF, "echo": float(surprise(logits[:, HALF:], text[:, HALF:]))}


def t5_measures(model: nn.Module, generator: torch.Generator) -> dict[str, float]:
    r"""What T5 makes of one hole in the first half.

    Args:
        model: a trained `EncoderDecoder`.
        generator: the source of chance.
    Returns: nats for `hole`.
    """
    text = echo_batch(HALF * BATCH_SIZE, generator)
    return {"hole": float(_span_surprise(model, text, (torch.arange(len(text)) % HALF)[:, None]))}


def glm_measures(model: nn.Module, generator: torch.Generator) -> dict[str, float]:
    r"""What GLM makes of one blank in the first half.

    Args:
        model: a trained `BlankFiller`.
        generator: the source of chance.
    Returns: nats for `hole`.
    """
    losses = [_infill_surprise(model, echo_batch(BATCH_SIZE, generator), hole) for hole in range(HALF)]
    return {"hole": float(torch.stack(losses).mean())}


def translation_measures(model: nn.Module, generator: torch.Generator) -> dict[str, float]:
    r"""How well sentences are translated that were not seen in training.

    Args:
        model: a trained `EncoderDecoder`.
        generator: the source of chance.
    Returns: nats a symbol for `translation`.
    """
    return {"translation": float(translation_loss(model, generator))}
