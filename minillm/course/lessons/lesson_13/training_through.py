r"""Find the bug: frozen is not the same as unseen by gradients."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

Layer = Callable[..., Tensor]
LEARNING = {"x": 0, "lora_a": 3, "lora_b": 4}  # places among the arguments of what gets a gradient
FROZEN = {"weight": 1, "bias": 2}


def layer_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    small = [torch.tensor(values) for values in ([[2.0, 1.0]], [[3.0, 1.0]], [0.5], [[1.0, -1.0]], [[2.0]])]
    yield (*(each.requires_grad_() for each in small), 0.5), {}
    for batch, bias, share in (((3,), True, 1.0), ((2, 3), False, 1.0), ((2, 4), True, 1.0), ((4,), True, 0.0)):
        d_in, d_out = draw.sizes(2, 5, 9)
        rank, scaling = draw.size(2, 4), draw.choice((0.25, 0.5, 2.0))
        shapes = ((*batch, d_in), (d_out, d_in), (d_out,), (rank, d_in), (d_out, rank))
        x, weight, shift, a, b = (draw.normal(*shape) for shape in shapes)
        parts = (x, weight, shift if bias else None, a, share * b)  # a share of 0: the first step
        yield (*(None if part is None else part.requires_grad_() for part in parts), scaling), {}


def pulled(out: Tensor) -> Tensor:
    r"""The gradient that comes from above, of any shape."""
    return torch.cos(torch.arange(out.numel(), dtype=torch.float64)).reshape(out.shape).to(out.dtype)


def two_steps(function: Layer, *args: Any) -> Any:
    r"""Call twice, as training does: what comes out, which gradients there are, and whether the layer is as it was."""
    out = function(*args)
    if not isinstance(out, Tensor):
        return out
    inputs = [part for part in args if isinstance(part, Tensor)]
    found: dict[str, Any] = {"output": out.detach(), "output of a second call": function(*args).detach()}
    gradients: Any = [None] * len(inputs)
    if out.requires_grad:
        gradients = torch.autograd.grad(out, inputs, pulled(out), allow_unused=True)
    of = {id(part): gradient for part, gradient in zip(inputs, gradients, strict=True)}
    for name, at in LEARNING.items():
        gradient = of[id(args[at])]
        found[f"gradient of {name}"] = torch.zeros_like(args[at]).detach() if gradient is None else gradient
    for name, at in FROZEN.items():
        if args[at] is not None:
            found[f"{name} gets a gradient"] = of[id(args[at])] is not None
            found[f"{name} may get gradients elsewhere"] = args[at].requires_grad
    return found


def by_the_chain_rule(x: Tensor, weight: Tensor, bias: Tensor | None, lora_a: Tensor, lora_b: Tensor,
                      scaling: float) -> dict[str, Any]:
    r"""The gradients as one derives them on paper, in double precision."""
    rows, w, a, b = (part.detach().double() for part in (x.reshape(-1, x.shape[-1]), weight, lora_a, lora_b))
    out = (rows @ (w + scaling * b @ a).T + (0 if bias is None else bias.detach().double())).float()
    out = out.reshape(*x.shape[:-1], len(weight))
    above = pulled(out).double().reshape(-1, len(weight))
    found: dict[str, Any] = {"output": out, "output of a second call": out}
    found["gradient of x"] = (above @ w + scaling * (above @ b) @ a).float().reshape(x.shape)
    found["gradient of lora_a"] = (scaling * (above @ b).T @ rows).float()
    found["gradient of lora_b"] = (scaling * above.T @ (rows @ a.T)).float()
    for name in ("weight", "bias") if bias is not None else ("weight",):
        found |= {f"{name} gets a gradient": False, f"{name} may get gradients elsewhere": True}
    return found


def frozen(part: Tensor | None) -> Tensor | None:
    return None if part is None else part.detach()


def change_of(x: Tensor, lora_a: Tensor, lora_b: Tensor, scaling: float) -> Tensor:
    return scaling * ((x @ lora_a.T) @ lora_b.T)


def through_one_matrix(x: Tensor, weight: Tensor, bias: Any, lora_a: Tensor, lora_b: Tensor, scaling: float) -> Tensor:
    return F.linear(x, weight.detach() + scaling * (lora_b @ lora_a), frozen(bias))


def base_unseen(x: Tensor, weight: Tensor, bias: Any, lora_a: Tensor, lora_b: Tensor, scaling: float) -> Tensor:
    with torch.no_grad():
        base = F.linear(x, weight, bias)
    return base + change_of(x, lora_a, lora_b, scaling)


def all_unseen(x: Tensor, weight: Tensor, bias: Any, lora_a: Tensor, lora_b: Tensor, scaling: float) -> Tensor:
    with torch.no_grad():
        return F.linear(x, weight, bias) + change_of(x, lora_a, lora_b, scaling)


def switched_off(x: Tensor, weight: Tensor, bias: Any, lora_a: Tensor, lora_b: Tensor, scaling: float) -> Tensor:
    weight.requires_grad_(False)
    if bias is not None:
        bias.requires_grad_(False)
    return F.linear(x, weight, bias) + change_of(x, lora_a, lora_b, scaling)


def merged_each_time(x: Tensor, weight: Tensor, bias: Any, lora_a: Tensor, lora_b: Tensor, scaling: float) -> Tensor:
    weight.data += (scaling * (lora_b @ lora_a)).detach()
    return F.linear(x, weight.detach(), frozen(bias))


def layer_with(
    base: Callable[[Tensor, Tensor, Any], Tensor] = lambda x, weight, bias: F.linear(x, weight.detach(), frozen(bias)),
    change: Callable[..., Tensor] = change_of,
) -> Layer:
    r"""A layer of which the base, or the change, is computed in another way."""

    def function(x: Tensor, weight: Tensor, bias: Any, lora_a: Tensor, lora_b: Tensor, scaling: float) -> Tensor:
        return base(x, weight, bias) + change(x, lora_a, lora_b, scaling)

    return function


ADAPTED_LINEAR = Exercise(
    id="tuning.adapted.adapted_linear",
    lesson="13",
    title="Find the bug",
    task="The base is frozen, so somebody computed it without gradients:\n\n```python\n"
    "def adapted_linear(x, weight, bias, lora_a, lora_b, scaling):\n"
    "    with torch.no_grad():\n"
    "        base = F.linear(x, weight, bias)\n"
    "    return low_rank.lora_forward(x, base, lora_a, lora_b, scaling)\n"
    "```\n\n"
    "Tested on one layer it is right: the output, no gradient for `weight`, the gradients of both factors. In a stack "
    "of layers only the topmost learns. Say in a sentence what a *frozen* layer still has to do in the backward pass; "
    "then mend the function. `weight` and `bias` get no gradient, even where they are parameters that require one, "
    "and are left as they are, `requires_grad` included; `x`, `lora_a` and `lora_b` get theirs. The bias may be None.",
    difficulty=2,
    minutes=12,
    points=3,
    seed=137,
    hints=(
        "Layer 1 reaches the loss only through layer 2. Which two paths lead through layer 2, and what does each of "
        "them multiply a gradient by? What is B at the first step?",
        "The gradient of y = W x for x is W^T times that of y; for W it is another product. One of the two is wanted.",
        "`tensor.detach()` is the same numbers without a past. Which tensors are to be cut off: what goes into the "
        "product, or what comes out of it?",
    ),
    cases=layer_cases,
    oracle=by_the_chain_rule,
    other_style=through_one_matrix,
    tolerance=Tolerance(2e-5, 2e-5, "float32 products, in another order"),
    probe=two_steps,
    mistakes=(
        Mistake(
            "the bug is still there",
            base_unseen,
            "The base's output has no past, by `no_grad` or `detach`, so no gradient gets back to x through the "
            "weight. What is left goes through B, and B is zero at first: all layers below this one stand still. Cut "
            "off the weight, not what it computes.",
        ),
        Mistake(
            "weight and bias learn",
            layer_with(base=F.linear),
            "Now the weight gets a gradient, and so does the bias: you train the base. That costs the memory that "
            "LoRA saves, and the adapter no longer is all that has changed.",
        ),
        Mistake(
            "the bias learns",
            layer_with(base=lambda x, weight, bias: F.linear(x, weight.detach(), bias)),
            "The weight is frozen, but the bias still gets a gradient. It belongs to the base as well: a file with the "
            "two factors alone would not give your model back.",
        ),
        Mistake(
            "the weight learns",
            layer_with(base=lambda x, weight, bias: F.linear(x, weight, frozen(bias))),
            "You froze the bias and forgot the weight: the base is trained.",
        ),
        Mistake(
            "nothing learns",
            all_unseen,
            "Now all is computed without gradients, the change too: nothing is left that could learn.",
        ),
        Mistake(
            "x cut off from the change",
            layer_with(change=lambda x, a, b, s: change_of(x.detach(), a, b, s)),
            "The gradient for x lacks the part that goes through the change. As long as B is zero that part is zero, "
            "so the first step looks right, and the later ones are not.",
        ),
        Mistake(
            "lora_a does not learn",
            layer_with(change=lambda x, a, b, s: change_of(x, a.detach(), b, s)),
            "lora_a gets no gradient. At the first step that is as it should be, because B is zero; afterwards both "
            "factors learn.",
        ),
        Mistake(
            "switched off for all",
            switched_off,
            "You set `requires_grad` of the caller's own tensors. Another model may share this layer and be training "
            "it. Freeze your view of it: `detach()` gives one.",
        ),
        Mistake(
            "merged twice",
            merged_each_time,
            "You add the change to the caller's weight, so it is merged once more with each call: the second gives "
            "another output than the first. And the factors no longer get the gradients they need.",
        ),
        Mistake(
            "bias lost",
            layer_with(base=lambda x, weight, bias: F.linear(x, weight.detach())),
            "The bias is gone. It is frozen, not absent.",
        ),
        Mistake(
            "no scaling",
            layer_with(change=lambda x, a, b, s: change_of(x, a, b, 1.0)),
            "You forgot alpha / rank: the change counts for more, or for less, than it is meant to.",
        ),
    ),
)
