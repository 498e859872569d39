r"""Find the bug: a gradient that is clipped while it is still scaled."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Stepped = tuple[list[Tensor], Tensor, bool]


def scaled_gradients(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    for dtype, power in ((torch.float16, draw.size(8, 11)), (torch.float32, draw.size(4, 14)), (torch.float16, 0)):
        scale = 2.0**power
        grads = [(scale / 64 * (i + 1) * draw.normal(*draw.sizes(2, 2, 5))).to(dtype) for i in range(3)]
        length = math.sqrt(sum(number**2 for grad in grads for number in grad.flatten().tolist())) / scale
        yield (grads, scale, length * draw.size(2, 8) / 10), {}
        yield (grads, scale, length * draw.size(12, 30) / 10), {}
    for spoilt in (math.inf, -math.inf, math.nan):
        grads = [draw.normal(draw.size(2, 5)).half() for _ in range(3)]
        grads[draw.size(0, 2)][0] = spoilt
        yield (grads, 2.0**10, 1.0), {}
    small = torch.full((draw.size(2, 5),), 2.0**-20).half()  # divided in fp16 they would be 0
    yield ([small], 2.0**10, 1.0), {}
    yield ([torch.ones(2)], 0.0, 1.0), {}
    yield ([torch.ones(2)], -8.0, 1.0), {}


def what_counts(function: Callable[..., Stepped], grads: list[Tensor], loss_scale: float, max_norm: float) -> Any:
    r"""The gradients and their length, unless they are thrown away: then only that."""
    clipped, norm, overflow = function(grads, loss_scale, max_norm)
    if overflow:
        return {"overflow": True}
    return {"overflow": bool(overflow), "length before clipping": norm, "gradients": clipped}


def by_numbers(grads: Sequence[Tensor], loss_scale: float, max_norm: float) -> Any:
    if not loss_scale > 0:
        raise ValueError("loss_scale")
    lists = [[number / loss_scale for number in grad.flatten().tolist()] for grad in grads]
    if not all(math.isfinite(number) for numbers in lists for number in numbers):
        return {"overflow": True}
    length = math.hypot(*(number for numbers in lists for number in numbers))
    factor = min(1.0, max_norm / length)
    return {
        "overflow": False,
        "length before clipping": torch.tensor(length),
        "gradients": [torch.tensor(numbers).mul(factor).view(grad.shape)
                      for numbers, grad in zip(lists, grads, strict=True)],
    }


def bound_lifted_instead(grads: Sequence[Tensor], loss_scale: float, max_norm: float) -> Stepped:
    if loss_scale <= 0:
        raise ValueError(f"loss_scale={loss_scale}")
    flat = torch.cat([grad.reshape(-1).float() for grad in grads])
    length = flat.norm()
    flat = flat / (loss_scale * max(1.0, float(length / (max_norm * loss_scale))))
    pieces = flat.split([grad.numel() for grad in grads])
    new = [piece.view_as(grad) for piece, grad in zip(pieces, grads, strict=True)]
    return new, length / loss_scale, not math.isfinite(float(length))


def clipped_first(grads: Sequence[Tensor], loss_scale: float, max_norm: float) -> Stepped:
    r"""The function as it was found, bug included; the text of the exercise shows it."""
    if not loss_scale > 0:
        raise ValueError(f"loss_scale={loss_scale}: use a number above 0")
    grads = [grad.float() for grad in grads]
    overflow = not all(torch.isfinite(grad).all() for grad in grads)
    norm = torch.stack([grad.norm() for grad in grads]).norm()
    factor = (max_norm / norm).clamp(max=1.0)
    return [grad * factor / loss_scale for grad in grads], norm / loss_scale, overflow


def unscaled_by(
    divide: Callable[[Tensor, float], Tensor] = lambda grad, scale: grad.float() / scale,
    told: Callable[[Tensor, Tensor, float], Tensor] = lambda norm, factor, scale: norm,
    whole: Callable[[Tensor], Tensor] = torch.isfinite,
    clip: bool = True,
    check: bool = True,
) -> Callable[..., Stepped]:
    r"""An unscale_and_clip in which one thing is done in another way."""

    def wrong(grads: Sequence[Tensor], loss_scale: float, max_norm: float) -> Stepped:
        if check and not loss_scale > 0:
            raise ValueError("loss_scale")
        unscaled = [divide(grad, loss_scale) for grad in grads]
        norm = torch.stack([grad.float().norm() for grad in unscaled]).norm()
        factor = (max_norm / norm).clamp(max=1.0) if clip else torch.ones(())
        overflow = not all(bool(whole(grad).all()) for grad in unscaled)
        return [(grad * factor).to(grad.dtype) for grad in unscaled], told(norm, factor, loss_scale), overflow

    return wrong


UNSCALE_AND_CLIP = Exercise(
    id="training.unscaling.unscale_and_clip",
    lesson="08",
    title="Find the bug",
    task="Between the backward pass of a scaled loss and the optimizer somebody has put:\n\n"
    "```python\n"
    "def unscale_and_clip(grads, loss_scale, max_norm):\n"
    "    if not loss_scale > 0:\n"
    "        raise ValueError(f\"loss_scale={loss_scale}: use a number above 0\")\n"
    "    grads = [grad.float() for grad in grads]\n"
    "    overflow = not all(torch.isfinite(grad).all() for grad in grads)\n"
    "    norm = torch.stack([grad.norm() for grad in grads]).norm()\n"
    "    factor = (max_norm / norm).clamp(max=1.0)                          # at most max_norm\n"
    "    return [grad * factor / loss_scale for grad in grads], norm / loss_scale, overflow\n"
    "```\n\n"
    "The length that it reports is right, and with AdamW the run looks almost healthy, as the cell above has shown. "
    "Say in a sentence what is wrong, then write it as it should be. It returns new gradients in float32, without the "
    "scale and with a common length of at most `max_norm`; their length before clipping, without the scale; and "
    "whether one of the numbers was inf or nan.",
    difficulty=2,
    minutes=10,
    points=3,
    seed=86,
    hints=(
        "`max_norm` is meant for the gradient of the loss. Which gradient is it compared with here?",
        "Take a gradient of length 0.5, a scale of 1024 and max_norm 1. Nothing should be clipped. Follow the numbers.",
        "Divide first, in float32; your `clip_by_norm` does the rest.",
    ),
    cases=scaled_gradients,
    oracle=by_numbers,
    probe=what_counts,
    other_style=bound_lifted_instead,
    tolerance=Tolerance(1e-4, 1e-11, "float32 lengths of some dozens of numbers"),
    mistakes=(
        Mistake(
            "clipped first",
            clipped_first,
            "The bug is still there: the length of the *scaled* gradient is compared with max_norm. So every gradient "
            "is cut down to max_norm / loss_scale, however short it was. Divide first, then clip.",
        ),
        Mistake(
            "divided in 16 bits",
            unscaled_by(divide=lambda grad, scale: (grad / scale).float()),
            "You divide in the gradients' own dtype. In fp16 the small ones become 0, and to keep them was what the "
            "scale was for. Cast to float32 before you divide.",
        ),
        Mistake(
            "left in 16 bits",
            unscaled_by(divide=lambda grad, scale: (grad.float() / scale).to(grad.dtype)),
            "What you return is in 16 bits again, and the small gradients have become 0. The optimizer works in "
            "float32, on float32 masters.",
        ),
        Mistake(
            "not divided",
            unscaled_by(divide=lambda grad, scale: grad.float()),
            "The scale is still in the gradients. Divide them by loss_scale.",
        ),
        Mistake(
            "multiplied",
            unscaled_by(divide=lambda grad, scale: grad.float() * scale),
            "You multiply by loss_scale once more. The loss was multiplied by it, so the gradients must be divided.",
        ),
        Mistake(
            "divided twice",
            unscaled_by(told=lambda norm, factor, scale: norm / scale),
            "The length that you return is divided by loss_scale twice. After unscaling it is right as it is.",
        ),
        Mistake(
            "length after clipping",
            unscaled_by(told=lambda norm, factor, scale: norm * factor),
            "You return the length after clipping. The length before it is the one that tells of trouble.",
        ),
        Mistake(
            "not clipped",
            unscaled_by(clip=False),
            "The gradients are unscaled but not clipped: their length may pass max_norm.",
        ),
        Mistake(
            "inf overlooked",
            unscaled_by(whole=lambda grad: ~grad.isnan()),
            "You look for nan only. A gradient that was too large for fp16 is inf, and so is every step made of it.",
        ),
        Mistake(
            "any scale",
            unscaled_by(check=False),
            "A loss_scale of 0 or less makes nonsense of every gradient. Refuse it by a ValueError.",
        ),
    ),
)
