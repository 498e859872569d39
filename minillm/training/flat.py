r"""All trained weights of a model as two long vectors in float32, and the copy that the model computes with.

    masters (float32)  --publish-->  working copy (fp32, bf16 or fp16; the model's parameters are views of it)
          ^                                |  forward, backward
       optimizer  <--collect_gradients--  gradients (one tensor for each parameter)

One long vector instead of dozens of small tensors makes clipping, the optimizer and the cast to bf16 a few calls a
step. The masters are needed because a step is often smaller than half the distance between two neighbouring bf16
numbers: added to a bf16 weight it would be rounded away.

Parameters that need no gradient are frozen: they have no master, no gradient and no place in the optimizer. They stay
where they are, in whatever type they have; for passes in bf16 or fp16 each is rounded once, and put back afterwards.
Layers with weights in few bits (they have a `dtype`, in which they restore them) follow for as long.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from minillm.training.optimizer import decay_groups


class FlatWeights:
    r"""The master weights of a model, in float32, with their gradients; one vector for each decay group.

    What needs no gradient is not among them: see the head of this file.

    `masters` maps `decay` and `plain` to vectors (a group without parameters is left out). `forward` is what to call on
    a batch: the model, or what `wrap` has made of it.

    Args:
        model: a module whose trained parameters are float32; outside of `attached` it holds the masters' values.
        wrap: called with the model once it is attached, so that passes go through what it returns; None = the model.
    Raises:
        ValueError: if a parameter that needs gradients is not float32.
    Source: Micikevicius et al. 2017, section 3.1 (masters); Rajbhandari et al. 2019, ZeRO, section 6 (flat buffers).
    Lesson: 08.
    """

    def __init__(self, model: nn.Module, wrap: Callable[[nn.Module], nn.Module] | None = None):
        require_float32(model)
        self.forward, self._model, self._wrap = model, model, wrap
        parameters = dict(model.named_parameters())
        groups = [(key, names) for key, names in zip(("decay", "plain"), decay_groups(model), strict=True) if names]
        self._names = dict(groups)
        self._parameters = {key: [parameters[name] for name in names] for key, names in groups}
        self._frozen = {name: parameter for name, parameter in parameters.items() if not parameter.requires_grad}
        self._unrounded: dict[str, Tensor] = {}  # what frozen parameters hold outside of `attached`, if it differs
        self._restored_in: list[tuple[nn.Module, torch.dtype]] = []  # likewise, for layers with weights in few bits
        self.masters = {key: nn.Parameter(_flatten(group)) for key, group in self._parameters.items()}
        self._grads = {key: torch.zeros_like(master.data) for key, master in self.masters.items()}
        self._attached = False
        self._working: dict[str, Tensor] | None = None  # None: the masters themselves

    @contextmanager
    def attached(self, dtype: torch.dtype) -> Iterator[None]:
        r"""Inside, the model's parameters are views of a working copy; after, they are its own, in float32.

        Args:
            dtype: of the working copy; with float32 the working copy is the masters themselves.
        """
        for key, group in self._parameters.items():
            self.masters[key].data.copy_(_flatten(group))
        self._working = None
        if dtype != torch.float32:
            self._working = {key: master.data.to(dtype) for key, master in self.masters.items()}
        for key, group in self._parameters.items():
            if self._working is None:
                _point(group, self.masters[key].data, self._grads[key])
            else:
                _point(group, self._working[key], None)
        self._round_frozen(dtype)
        self._attached = True
        if self._wrap is not None:
            self.forward = self._wrap(self._model)
        try:
            yield
        finally:
            self._attached, self.forward = False, self._model
            for key, group in self._parameters.items():
                _point(group, self.masters[key].data.clone(), None)
            self._working = None
            for name, kept in self._unrounded.items():
                self._frozen[name].data = kept
            for module, kept in self._restored_in:
                module.dtype = kept
            self._unrounded, self._restored_in = {}, []

    def _round_frozen(self, dtype: torch.dtype) -> None:
        if dtype == torch.float32:
            return  # a base in 16 bits stays so, beside trained parts in float32
        modules = [(module, getattr(module, "dtype", None)) for module in self._model.modules()]
        self._restored_in = [(module, kept) for module, kept in modules if isinstance(kept, torch.dtype)]
        for module, _ in self._restored_in:
            module.dtype = dtype
        self._unrounded = {name: parameter.data for name, parameter in self._frozen.items()
                           if parameter.is_floating_point() and parameter.dtype != dtype}
        for name, kept in self._unrounded.items():
            self._frozen[name].data = kept.to(dtype)

    def named_masters(self) -> dict[str, Tensor]:
        r"""Every parameter's values, unrounded, by its name, inside and outside of `attached`; detached views."""
        frozen = {name: self._unrounded.get(name, parameter.detach()) for name, parameter in self._frozen.items()}
        if self._attached:  # what the model holds now may be rounded
            return self.by_name({master: master.detach() for master in self.masters.values()}) | frozen
        return {name: parameter.detach() for key, group in self._parameters.items()
                for name, parameter in zip(self._names[key], group, strict=True)} | frozen

    def groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        r"""What the optimizer works on: the vectors with weight decay, and those without."""
        return [self.masters[key] for key in self.masters if key == "decay"], [
            self.masters[key] for key in self.masters if key == "plain"]

    def by_name(self, values: Mapping[Tensor, Tensor]) -> dict[str, Tensor]:
        r"""Cut vectors that belong to the masters, such as AdamW's averages, into views, one for each parameter.

        Args:
            values: for each master a vector of its size.
        Returns: by the parameter's name, in its shape.
        """
        named = {}
        for key, group in self._parameters.items():
            pieces = values[self.masters[key]].split([parameter.numel() for parameter in group])
            for name, piece, parameter in zip(self._names[key], pieces, group, strict=True):
                named[name] = piece.view(parameter.shape)
        return named

    def zero_gradients(self) -> None:
        r"""Forget all gradients."""
        for key, grad in self._grads.items():
            grad.zero_()
            self.masters[key].grad = None  # the clipped ones of the step before

    def collect_gradients(self) -> None:
        r"""Add the working copy's gradients to the masters', in float32, and forget them."""
        if self._working is None:
            return  # they are the masters' already
        for key, group in self._parameters.items():
            pieces = self._grads[key].split([parameter.numel() for parameter in group])
            for parameter, piece in zip(group, pieces, strict=True):
                if parameter.grad is not None:
                    piece.view_as(parameter).add_(parameter.grad)
                    parameter.grad = None  # the next backward pass need not add to it, but can leave its own

    def gradients(self) -> list[Tensor]:
        r"""The masters' gradients, float32."""
        return list(self._grads.values())

    def set_gradients(self, grads: list[Tensor]) -> None:
        r"""Give the optimizer these gradients in the place of those that were collected.

        Args:
            grads: as many vectors as `gradients` gives, of the same sizes; kept until the next ones come.
        """
        for master, grad in zip(self.masters.values(), grads, strict=True):
            master.grad = grad

    def publish(self) -> None:
        r"""Round the masters into the working copy, after they have changed."""
        if self._working is not None:
            for key, working in self._working.items():
                working.copy_(self.masters[key].data)


def require_float32(model: nn.Module) -> None:
    r"""Refuse a model whose masters would be rounded already.

    Args:
        model: any module.
    Raises:
        ValueError: if a parameter that needs gradients is not float32.
    Lesson: 08.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            raise ValueError(f"model: {name} is {parameter.dtype}; train a float32 model (model.float()) and choose "
                             "what to compute in by dtype")


def _flatten(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def _point(parameters: Sequence[nn.Parameter], flat: Tensor, grads: Tensor | None) -> None:
    start = 0
    for parameter in parameters:
        end = start + parameter.numel()
        parameter.grad = None  # a gradient of another dtype must not meet the new data
        parameter.data = flat[start:end].view_as(parameter)
        parameter.grad = None if grads is None else grads[start:end].view_as(parameter)
        start = end
