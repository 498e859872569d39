r"""A module whose weights are spread over the ranks, and are whole only while it computes (ZeRO, stage 3).

    forward:  gather the weights, compute, forget them
    backward: gather the weights, compute again, find the gradients, share them out, forget both
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from minillm.training import collectives
from minillm.training.wires import Wire


class WholeWeights:
    r"""Puts weights together from the shares of all ranks, and knows how many bytes of them there were at most.

    Args:
        wire: to the other ranks.
    Lesson: 08.
    """

    def __init__(self, wire: Wire):
        self.wire = wire
        self.most_bytes = 0

    def gather(self, shares: list[Tensor], shapes: list[torch.Size]) -> list[Tensor]:
        r"""Fetch what the other ranks hold.

        Args:
            shares: this rank's share of each parameter.
            shapes: of the whole parameters.
        Returns: the whole parameters.
        """
        with self.wire.counting("weights"):
            vectors = [collectives.all_gather(share.detach(), self.wire) for share in shares]
        self.most_bytes = max(self.most_bytes, sum(vector.nbytes for vector in vectors))
        return [vector[: shape.numel()].view(shape) for vector, shape in zip(vectors, shapes, strict=True)]

    def share_out(self, grads: list[Tensor]) -> list[Tensor]:
        r"""Add up gradients over all ranks, and keep this rank's share.

        Args:
            grads: of the whole parameters.
        Returns: this rank's share of each sum.
        """
        with self.wire.counting("gradients"):
            return [collectives.reduce_scatter(grad, self.wire) for grad in grads]


class GatheredModule(nn.Module):
    r"""A module of which this rank keeps a share only; it computes as the whole one does.

    Args:
        module: the whole one, the same on all ranks; it is copied without its numbers. It must be deterministic,
            because its forward pass is done twice.
        shares: this rank's share of each of the module's parameters, in their order.
        whole: through which the weights come together.
    Source: Rajbhandari et al. 2019, ZeRO, section 5.3. Forgetting the activations too is our simplification.
    Lesson: 08.
    """

    def __init__(self, module: nn.Module, shares: list[nn.Parameter], whole: WholeWeights):
        super().__init__()
        self.shares = nn.ParameterList(shares)
        self._shell = [copy.deepcopy(module).to("meta")]  # in a list, so that its empty parameters are not found
        self._whole = whole

    @property
    def weight(self) -> Tensor:
        r"""The shape and dtype of the whole weight, without numbers."""
        return self._shell[0].weight

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        return GatherAndCompute.apply(self._shell[0], self._whole, args, x, *self.shares)


class GatherAndCompute(torch.autograd.Function):
    r"""The forward and backward of a `GatheredModule`. Lesson: 08."""

    @staticmethod
    def forward(ctx: Any, shell: nn.Module, whole: WholeWeights, args: tuple, x: Tensor, *shares: Tensor) -> Tensor:
        r"""Gather the weights, compute, and keep the input and the own shares only.

        Args:
            ctx: what the backward pass finds again.
            shell: the module without numbers.
            whole: through which the weights come together.
            args: of the module, after x.
            x: its input.
            shares: of its parameters.
        Returns: the module's output.
        """
        ctx.shell, ctx.whole, ctx.args = shell, whole, args
        ctx.save_for_backward(x, *shares)
        return _compute(shell, _gathered(shell, whole, list(shares)), x, args)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        r"""Gather the weights once more, compute once more, and share the gradients out.

        Args:
            ctx: what the forward pass has kept.
            grad: of the output.
        Returns: gradients of x and of the shares.
        """
        x, *shares = ctx.saved_tensors
        weights = [weight.requires_grad_() for weight in _gathered(ctx.shell, ctx.whole, shares)]
        with torch.enable_grad():
            x = x.detach().requires_grad_(x.is_floating_point())
            out = _compute(ctx.shell, weights, x, ctx.args)
        wanted = [x, *weights] if x.requires_grad else weights
        grads = list(torch.autograd.grad(out, wanted, grad, materialize_grads=True))
        to_x = grads.pop(0) if x.requires_grad else None
        return None, None, None, to_x, *ctx.whole.share_out(grads)


def _gathered(shell: nn.Module, whole: WholeWeights, shares: list[Tensor]) -> list[Tensor]:
    return whole.gather(shares, [parameter.shape for parameter in shell.parameters()])


def _compute(shell: nn.Module, weights: list[Tensor], x: Tensor, args: tuple) -> Tensor:
    names = (name for name, _ in shell.named_parameters())
    return torch.func.functional_call(shell, dict(zip(names, weights, strict=True)), (x, *args))
