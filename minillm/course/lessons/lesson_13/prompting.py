r"""Vectors in front of every text."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Longer = tuple[Tensor, Tensor]


def prompt_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    yield (torch.tensor([[7.0]]), torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]]),
           torch.tensor([[True, True], [False, True]])), {}
    for padded in (left_padded, right_padded, all_real):
        b, length, n_tokens, width = draw.sizes(4, 2, 8)
        yield (draw.normal(length, width), draw.normal(b, n_tokens, width), padded(b, n_tokens)), {}
    b, side, width = draw.sizes(3, 3, 6)
    yield (draw.normal(side, width), draw.normal(b, side, width), left_padded(b, side)), {}  # as many as the tokens
    yield (draw.normal(side, side), draw.normal(side, side, side), left_padded(side, side)), {}
    yield (draw.normal(1, width), draw.normal(b, 5, width).bfloat16(), left_padded(b, 5)), {}


def left_padded(b: int, n_tokens: int) -> Tensor:
    return torch.arange(n_tokens) >= torch.arange(b)[:, None].clamp(max=n_tokens - 1)


def right_padded(b: int, n_tokens: int) -> Tensor:
    return left_padded(b, n_tokens).flip(1)


def all_real(b: int, n_tokens: int) -> Tensor:
    return torch.ones(b, n_tokens, dtype=torch.bool)


def text_by_text(prompt: Tensor, x: Tensor, padding_mask: Tensor) -> Longer:
    r"""Lists, one text after another."""
    rows = [prompt.to(x.dtype).tolist() + text.tolist() for text in x]
    real = [[True] * len(prompt) + row for row in padding_mask.tolist()]
    return torch.tensor(rows, dtype=x.dtype), torch.tensor(real)


def padded_and_filled(prompt: Tensor, x: Tensor, padding_mask: Tensor) -> Longer:
    longer = torch.nn.functional.pad(x, (0, 0, len(prompt), 0))
    longer[:, : len(prompt)] = prompt
    return longer, torch.nn.functional.pad(padding_mask, (len(prompt), 0), value=True)


def repeated(prompt: Tensor, x: Tensor, cast: bool = True) -> Tensor:
    r"""The prompt once for each text."""
    return (prompt.to(x.dtype) if cast else prompt)[None].repeat(len(x), 1, 1)


def prompted_with(
    vectors: Callable[[Tensor, Tensor], Tensor] = lambda prompt, x: torch.cat([repeated(prompt, x), x], dim=1),
    real: Callable[[Tensor, int], Tensor] = lambda mask, k: torch.cat([mask.new_ones(len(mask), k), mask], dim=1),
) -> Callable[..., Longer]:
    r"""A prompt of which the vectors, or the mask, are joined in another way."""

    def function(prompt: Tensor, x: Tensor, padding_mask: Tensor) -> Longer:
        return vectors(prompt, x), real(padding_mask, len(prompt))

    return function


def copied_mask(mask: Tensor, k: int) -> Tensor:
    return torch.cat([mask[:, :1].expand(-1, k), mask], dim=1)


def over_the_first_tokens(prompt: Tensor, x: Tensor) -> Tensor:
    out = x.clone()
    out[:, : len(prompt)] = prompt[: x.shape[1]].to(x.dtype)
    return out


def to_the_first_text(prompt: Tensor, x: Tensor) -> Tensor:
    rows = repeated(prompt, x)
    return torch.cat([torch.cat([rows[:1], torch.zeros_like(rows[1:])]), x], dim=1)


def between_padding_and_text(prompt: Tensor, x: Tensor, padding_mask: Tensor) -> Longer:
    rows, real = [], []
    for text, mask in zip(x, padding_mask, strict=True):
        first = int(mask.int().argmax())
        rows.append(torch.cat([text[:first], prompt.to(x.dtype), text[first:]]))
        real.append(torch.cat([mask[:first], mask.new_ones(len(prompt)), mask[first:]]))
    return torch.stack(rows), torch.stack(real)


PROMPT_CONCAT = Exercise(
    id="tuning.prompts.prompt_concat",
    lesson="13",
    title="A prompt that is no text",
    task="`x` (B, T, D) are the embedded tokens of B texts, `padding_mask` (B, T) says which of them are real. "
    "`prompt` (k, D) are k trained vectors, no word's. Put them in front of every text, the same for all, and extend "
    "the mask: the prompt is real. Return both, (B, k + T, D) in the dtype of x and (B, k + T).\n\n"
    "The prompt goes in front of the padding too, where there is some: a position counts the real tokens so far, so "
    "the text follows the prompt directly.",
    difficulty=1,
    minutes=8,
    points=2,
    seed=136,
    hints=(
        "k = 2, T = 3, one text with one padding token in front: write down the mask that must come out.",
        "The prompt has no batch axis. Give it one of size 1 and `expand` it to B, then it can be joined along the "
        "tokens.",
        "`mask.new_ones(...)` makes ones of the mask's own type, where `torch.ones` would make floats.",
    ),
    cases=prompt_cases,
    oracle=text_by_text,
    other_style=padded_and_filled,
    tolerance=Tolerance(0.0, 0.0, "numbers are copied, never computed with"),
    mistakes=(
        Mistake(
            "mask not extended",
            prompted_with(real=lambda mask, k: mask),
            "The mask is as long as the texts were, and no longer belongs to what you return: with causal attention it "
            "would be laid over the first T places, the prompt among them. Extend it by k places.",
        ),
        Mistake(
            "prompt marked as padding",
            prompted_with(real=lambda mask, k: torch.cat([mask.new_zeros(len(mask), k), mask], dim=1)),
            "Your mask says that the prompt is padding. Nobody would see it: it could be trained for ever, and change "
            "nothing.",
        ),
        Mistake(
            "mask like its neighbour",
            prompted_with(real=copied_mask),
            "You repeat the first place of the mask. Where a text begins with padding, the prompt is hidden too.",
        ),
        Mistake(
            "mask extended behind",
            prompted_with(real=lambda mask, k: torch.cat([mask, mask.new_ones(len(mask), k)], dim=1)),
            "The vectors are in front, the new places of the mask behind: from there on it speaks of the wrong tokens.",
        ),
        Mistake(
            "all real",
            prompted_with(real=lambda mask, k: mask.new_ones(len(mask), k + mask.shape[1])),
            "Your mask says that all is real, and forgets the padding of the texts.",
        ),
        Mistake(
            "mask of numbers",
            prompted_with(real=lambda mask, k: torch.cat([torch.ones(len(mask), k), mask], dim=1)),
            "Your mask has become numbers: `torch.ones` are floats, and joined to bool they win. It must stay bool; "
            "`~` and `&` mean something else, or nothing, for floats.",
        ),
        Mistake(
            "added",
            prompted_with(vectors=lambda prompt, x: x + repeated(prompt, x), real=lambda mask, k: mask),
            "You add the prompt to the tokens, as one adds positions. It stands in front of them: k more tokens, that "
            "each can be looked at by itself.",
        ),
        Mistake(
            "over the first tokens",
            prompted_with(vectors=over_the_first_tokens, real=lambda mask, k: mask),
            "The prompt has taken the place of the first tokens: what they said is lost.",
        ),
        Mistake(
            "behind the text",
            prompted_with(vectors=lambda prompt, x: torch.cat([x, repeated(prompt, x)], dim=1),
                          real=lambda mask, k: torch.cat([mask, mask.new_ones(len(mask), k)], dim=1)),
            "The prompt stands behind the texts. In a model that looks back only, no token of the text would see it.",
        ),
        Mistake(
            "vectors behind, mask in front",
            prompted_with(vectors=lambda prompt, x: torch.cat([x, repeated(prompt, x)], dim=1)),
            "The prompt stands behind the texts, and no token of them would see it. The mask is extended in front, "
            "where it belongs.",
        ),
        Mistake(
            "first text only",
            prompted_with(vectors=to_the_first_text),
            "Only the first text has the prompt, the others have zeros. It is the same for all: `expand`.",
        ),
        Mistake(
            "between padding and text",
            between_padding_and_text,
            "You put the prompt between the padding and the text. It works, but place by place the rows then hold "
            "different things; here the prompt comes first, and the mask takes care of the gap.",
        ),
        Mistake(
            "dtype of the prompt",
            prompted_with(vectors=lambda prompt, x: torch.cat([repeated(prompt, x, cast=False), x], dim=1)),
            "A float32 prompt has turned bfloat16 texts into float32 ones: `torch.cat` takes the wider dtype. Cast the "
            "prompt.",
        ),
    ),
)
