r"""What a rank holds and does in each stage of ZeRO.

All stages have the same methods: `backward` leaves the gradients, `held` says what is kept, `update` moves the weights.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from minillm.model.gpt import GPT
from minillm.training import adamw, collectives, data_parallel, zero
from minillm.training.gathering import GatheredModule, WholeWeights
from minillm.training.wires import Wire


class FlatStage:
    r"""Stages 0 and 1: whole weights and a whole gradient, as one vector; in stage 1 a share of Adam's averages.

    Args:
        model: the same on all ranks.
        wire: to the other ranks.
        stage: 0 or 1.
    Lesson: 08.
    """

    most_gathered = 0

    def __init__(self, model: nn.Module, wire: Wire, stage: int):
        self._model, self._wire, self._stage = model, wire, stage
        n_numbers = zero.flat_weights(list(model.parameters())).numel()
        size = collectives.share_size(n_numbers, wire.n_ranks) if stage == 1 else n_numbers
        self._averages = torch.zeros(size), torch.zeros(size)
        self._gradient = torch.zeros(n_numbers)

    def backward(self, token_ids: Tensor, targets: Tensor) -> float:
        r"""Find this rank's gradient.

        Args:
            token_ids: its rows.
            targets: its rows.
        Returns: the loss over the targets of all ranks.
        """
        part = data_parallel.weighed_loss(self._model, token_ids, targets, self._wire)
        self._gradient = data_parallel.flat_gradient(self._model, part)
        return _sum_of_parts(part, self._wire)

    def held(self) -> dict[str, list[Tensor]]:
        r"""What this rank keeps."""
        weights = list(self._model.parameters())
        return {"weights": weights, "gradients": [self._gradient], "optimizer": list(self._averages)}

    def update(self, step: int, learning_rate: float, weight_decay: float) -> None:
        r"""Move the weights.

        Args:
            step: its number, from 1.
            learning_rate: size of the step.
            weight_decay: as in `adamw_step`.
        """
        weights, wire = self.all_weights(), self._wire
        if self._stage == 0:
            gradient = _counted(wire, "gradients", collectives.all_reduce)(self._gradient)
            weights, *averages = adamw.adamw_step(
                weights, gradient, *self._averages, step, learning_rate, weight_decay=weight_decay
            )
        else:
            weights, *averages = zero.zero1_shard(
                weights, self._gradient, *self._averages, step, learning_rate, wire.rank, wire.n_ranks,
                _counted(wire, "gradients", collectives.reduce_scatter),
                _counted(wire, "weights", collectives.all_gather), weight_decay)  # fmt: skip
        self._averages = tuple(averages)
        start = 0
        for parameter in self._model.parameters():
            parameter.data.copy_(weights[start : start + parameter.numel()].view_as(parameter))
            start += parameter.numel()

    def all_weights(self) -> Tensor:
        r"""All weights as one vector."""
        return zero.flat_weights(list(self._model.parameters()))


class GradientStage:
    r"""Stage 2: each gradient is added up and cut into shares as soon as the backward pass has found it.

    Args:
        model: the same on all ranks.
        wire: to the other ranks.
        stage: 2.
    Lesson: 08.
    """

    most_gathered = 0

    def __init__(self, model: nn.Module, wire: Wire, stage: int):
        self._model, self._wire = model, wire
        self._own = {parameter: _share_of(parameter, wire) for parameter in model.parameters()}
        self._averages = {p: (torch.zeros_like(own), torch.zeros_like(own)) for p, own in self._own.items()}
        self._grads: dict[Tensor, Tensor] = {}
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(self._share_out)

    def _share_out(self, parameter: Tensor) -> None:
        add_up = _counted(self._wire, "gradients", collectives.reduce_scatter)
        self._grads[parameter] = add_up(parameter.grad)
        parameter.grad = None  # forgotten while the backward pass goes on

    def backward(self, token_ids: Tensor, targets: Tensor) -> float:
        r"""Find this rank's share of the gradient of the batch.

        Args:
            token_ids: its rows.
            targets: its rows.
        Returns: the loss over the targets of all ranks.
        """
        part = data_parallel.weighed_loss(self._model, token_ids, targets, self._wire)
        part.backward()
        return _sum_of_parts(part, self._wire)

    def held(self) -> dict[str, list[Tensor]]:
        r"""What this rank keeps; its own share of the weights is part of the whole ones."""
        averages = [average for pair in self._averages.values() for average in pair]
        return {"weights": list(self._own), "gradients": list(self._grads.values()), "optimizer": averages}

    def update(self, step: int, learning_rate: float, weight_decay: float) -> None:
        r"""Move the own share of each parameter, and fetch the other shares.

        Args:
            step: its number, from 1.
            learning_rate: size of the step.
            weight_decay: as in `adamw_step`.
        """
        gather = _counted(self._wire, "weights", collectives.all_gather)
        for parameter in self._own:
            own, *averages = adamw.adamw_step(
                _share_of(parameter, self._wire), self._grads[parameter], *self._averages[parameter], step,
                learning_rate, weight_decay=weight_decay)  # fmt: skip
            self._averages[parameter] = tuple(averages)
            parameter.data.copy_(gather(own)[: parameter.numel()].view_as(parameter))
        self._grads = {}

    def all_weights(self) -> Tensor:
        r"""All weights as one vector."""
        return zero.flat_weights(list(self._model.parameters()))


class WeightStage:
    r"""Stage 3: of everything only a share; weights come together for the moment in which a part computes.

    Args:
        model: the same on all ranks.
        wire: to the other ranks.
        stage: 3.
    Lesson: 08.
    """

    def __init__(self, model: GPT, wire: Wire, stage: int):
        self._whole = WholeWeights(wire)
        self._shapes = {parameter: parameter.shape for parameter in model.parameters()}
        self._own = {parameter: nn.Parameter(_share_of(parameter, wire)) for parameter in self._shapes}
        self._averages = {p: (torch.zeros_like(own), torch.zeros_like(own)) for p, own in self._own.items()}
        self._model, self._wire = _gathered_parts(model, self._own, self._whole), wire

    @property
    def most_gathered(self) -> int:
        r"""Bytes of weights that were whole at one time."""
        return self._whole.most_bytes

    def backward(self, token_ids: Tensor, targets: Tensor) -> float:
        r"""Find this rank's share of the gradient of the batch.

        Args:
            token_ids: its rows.
            targets: its rows.
        Returns: the loss over the targets of all ranks.
        """
        part = data_parallel.weighed_loss(self._model, token_ids, targets, self._wire)
        part.backward()
        return _sum_of_parts(part, self._wire)

    def held(self) -> dict[str, list[Tensor]]:
        r"""What this rank keeps."""
        shares = list(self._own.values())
        averages = [average for pair in self._averages.values() for average in pair]
        return {"weights": shares, "gradients": [share.grad for share in shares], "optimizer": averages}

    def update(self, step: int, learning_rate: float, weight_decay: float) -> None:
        r"""Move the own share of each parameter; nothing has to be sent.

        Args:
            step: its number, from 1.
            learning_rate: size of the step.
            weight_decay: as in `adamw_step`.
        """
        for parameter, share in self._own.items():
            new, *averages = adamw.adamw_step(
                share.data, share.grad, *self._averages[parameter], step, learning_rate, weight_decay=weight_decay
            )
            self._averages[parameter] = tuple(averages)
            share.data, share.grad = new, None

    def all_weights(self) -> Tensor:
        r"""All weights as one vector, for whoever wants to look; a model that needs this stage could not hold it."""
        return zero.flat_weights(self._whole.gather(list(self._own.values()), list(self._shapes.values())))


def _gathered_parts(model: GPT, own: dict[Tensor, nn.Parameter], whole: WholeWeights) -> GPT:
    r"""The model with each part that has weights in a `GatheredModule`; a block is one part."""

    def spread(part: nn.Module) -> nn.Module:
        shares = [own[parameter] for parameter in part.parameters()]
        return GatheredModule(part, shares, whole) if shares else part

    parts = {name: spread(part) for name, part in model.named_children() if name != "blocks"}
    blocks = nn.ModuleList(spread(block) for block in model.blocks)
    for name, part in (*parts.items(), ("blocks", blocks)):
        setattr(model, name, part)
    return model


def _share_of(x: Tensor, wire: Wire) -> Tensor:
    return collectives.own_share(x.detach(), wire.rank, wire.n_ranks)


def _counted(wire: Wire, purpose: str, collective: Callable[[Tensor, Wire], Tensor]) -> Callable[[Tensor], Tensor]:
    def call(x: Tensor) -> Tensor:
        with wire.counting(purpose):
            return collective(x, wire)

    return call


def _sum_of_parts(part: Tensor, wire: Wire) -> float:
    return _counted(wire, "losses", collectives.all_reduce)(part.detach()).item()
