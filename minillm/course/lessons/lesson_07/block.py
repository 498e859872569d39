r"""A block, from parts that are handed in."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Part = Callable[[Tensor], Tensor]
SMALL_SUMS = Tolerance(2e-5, 1e-5, "a few sums of numbers near 10, possibly in another order")


def block_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    for shape, dtype in (
        ((1, 2, 3), torch.float32),
        (draw.sizes(3, 2, 6), torch.float32),
        (draw.sizes(3, 3, 7), torch.float64),
    ):
        yield (draw.normal(*shape, dtype=dtype, scale=3.0), *random_parts(draw, shape[1], shape[2], dtype)), {}


def random_parts(draw: Draw, seq_len: int, d_model: int, dtype: torch.dtype) -> tuple[Part, Part, Part, Part]:
    r"""Stand-ins for attn, ffn and the two norms, so different that no two can be taken for each other."""
    mix = draw.normal(seq_len, seq_len, dtype=dtype, scale=0.5).tril()
    into, inner = (draw.normal(d_model, d_model, dtype=dtype) for _ in range(2))
    attn_gain, ffn_gain = draw.normal(d_model, dtype=dtype) + 2.0, draw.normal(d_model, dtype=dtype) - 2.0

    def normalized(x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt()

    return (
        lambda x: (mix @ x) @ into,
        lambda x: torch.tanh(x @ inner) * 2.0 + 0.5,
        lambda x: normalized(x) * attn_gain,
        lambda x: normalized(x) * ffn_gain,
    )


def block_token_by_token(x: Tensor, attn: Part, ffn: Part, attn_norm: Part, ffn_norm: Part) -> Tensor:
    r"""The same stream, written as what each branch adds."""
    from_others = attn(torch.stack([attn_norm(x[:, t]) for t in range(x.shape[1])], dim=1))
    stream = [x[:, t] + from_others[:, t] for t in range(x.shape[1])]
    return torch.stack([token + ffn(ffn_norm(token)) for token in stream], dim=1)


def block_by_additions(x: Tensor, attn: Part, ffn: Part, attn_norm: Part, ffn_norm: Part) -> Tensor:
    answer = attn(attn_norm(x))
    return x + answer + ffn(ffn_norm(x + answer))


def norm_on_the_stream(x: Tensor, attn: Part, ffn: Part, attn_norm: Part, ffn_norm: Part) -> Tensor:
    x = attn_norm(x)
    x = x + attn(x)
    x = ffn_norm(x)
    return x + ffn(x)


def norm_after_the_part(x: Tensor, attn: Part, ffn: Part, attn_norm: Part, ffn_norm: Part) -> Tensor:
    x = x + attn_norm(attn(x))
    return x + ffn_norm(ffn(x))


def post_norm(x: Tensor, attn: Part, ffn: Part, attn_norm: Part, ffn_norm: Part) -> Tensor:
    x = attn_norm(x + attn(x))
    return ffn_norm(x + ffn(x))


def second_residual_from_the_start(x: Tensor, attn: Part, ffn: Part, attn_norm: Part, ffn_norm: Part) -> Tensor:
    return x + ffn(ffn_norm(x + attn(attn_norm(x))))


def first_residual_only(x: Tensor, attn: Part, ffn: Part, attn_norm: Part, ffn_norm: Part) -> Tensor:
    return ffn(ffn_norm(x + attn(attn_norm(x))))


BLOCK_FORWARD = Exercise(
    id="model.block.block_forward",
    lesson="07",
    title="The pre-norm block",
    task="Write the left one of the two drawings. `attn`, `ffn` and the two norms are functions that are handed in: "
    "call them. Each part reads a normalized copy of the stream, and what it answers is added to the stream itself.",
    difficulty=1,
    minutes=10,
    points=3,
    seed=72,
    hints=(
        "One line for attention, one for the FFN; both have the same form.",
        "Follow the drawing from the top: the line on the right goes past everything and is only added to. What goes "
        "into `attn`?",
        "The FFN is to see what attention has found: it reads the stream after the first addition.",
    ),
    cases=block_cases,
    oracle=block_token_by_token,
    other_style=block_by_additions,
    tolerance=SMALL_SUMS,
    mistakes=(
        Mistake(
            "no residuals",
            lambda x, attn, ffn, attn_norm, ffn_norm: ffn(ffn_norm(attn(attn_norm(x)))),
            "There are no residual connections: each part replaces the stream where it should add to it. What a part "
            "does not say is then lost, and in a deep stack hardly any gradient arrives at the first layers.",
        ),
        Mistake(
            "second residual missing",
            first_residual_only,
            "The residual connection around attention is there, the one around the FFN is missing: its answer must be "
            "added to the stream too.",
        ),
        Mistake(
            "post-norm",
            post_norm,
            "This is the drawing on the right, post-norm: you normalize the sum. In a pre-norm block the norms stand "
            "inside the branches, before attn and before ffn, and the stream itself is never normalized.",
        ),
        Mistake(
            "norm applied to the residual too",
            norm_on_the_stream,
            "You overwrite x with its normalized copy, so what is added to is normalized as well. Keep the stream as "
            "it is, and hand the normalized copy only to the part.",
        ),
        Mistake(
            "ffn reads the old x",
            lambda x, attn, ffn, attn_norm, ffn_norm: x + attn(attn_norm(x)) + ffn(ffn_norm(x)),
            "Your FFN reads x as it was before attention. That is a design of its own, the parallel block (GPT-J, "
            "PaLM). Here the FFN comes second and reads the stream to which attention has already added.",
        ),
        Mistake(
            "attention's answer lost",
            second_residual_from_the_start,
            "The second residual connection starts at the block's input, so what attention added to the stream is "
            "thrown away after the FFN has read it. Add the FFN's answer to the stream after attention.",
        ),
        Mistake(
            "no norms",
            lambda x, attn, ffn, attn_norm, ffn_norm: block_by_additions(x, attn, ffn, lambda y: y, lambda y: y),
            "The norms are never called. Without them a stream that grows makes each part's inputs grow with it.",
        ),
        Mistake(
            "norm after the part",
            norm_after_the_part,
            "You normalize what a part answers. The norm belongs before the part: attn reads attn_norm of the stream.",
        ),
        Mistake(
            "norms swapped",
            lambda x, attn, ffn, attn_norm, ffn_norm: block_by_additions(x, attn, ffn, ffn_norm, attn_norm),
            "The two norms have changed places. Each has weights of its own: attn_norm goes before attn, ffn_norm "
            "before ffn.",
        ),
        Mistake(
            "ffn first",
            lambda x, attn, ffn, attn_norm, ffn_norm: block_by_additions(x, ffn, attn, ffn_norm, attn_norm),
            "You run the FFN first and attention second. First the tokens gather from each other, then each works on "
            "what it has gathered.",
        ),
    ),
)
