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
        self._grad_of = {parameter: grad for key, group in self._parameters.items()
                         for parameter, grad in zip(group, _pieces(self._grads[key], group), strict=True)}
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
            _point(group, self.masters[key].data if self._working is None else self._working[key])
            if self._working is None:
                for parameter in group:
                    parameter.grad = self._grad_of[parameter]
        self._round_frozen(dtype)
        self._attached = True
        if self._wrap is not None:
            self.forward = self._wrap(self._model)
        try:
            yield
        finally:
            self._attached, self.forward = False, self._model
            for key, group in self._parameters.items():
                _point(group, self.masters[key].data.clone())
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
            named |= zip(self._names[key], _pieces(values[self.masters[key]], group), strict=True)
        return named

    def zero_gradients(self) -> None:
        r"""Forget all gradients."""
        for key, grad in self._grads.items():
            grad.zero_()
            self.masters[key].grad = None  # the clipped ones of the step before

    def collect_gradients(self) -> None:
        r"""Add the working copy's gradients to the masters', in float32, and forget them.

        A parameter that has none is left as it is: its gradient may have been added by way of `gradient_of`.
        """
        if self._working is None:
            return  # they are the masters' already
        for parameter, grad in self._grad_of.items():
            if parameter.grad is not None:
                grad.add_(parameter.grad)
                parameter.grad = None  # the next backward pass need not add to it, but can leave its own

    def gradient_of(self, parameter: nn.Parameter) -> Tensor:
        r"""The collected gradient of one parameter, for a backward pass that adds to it itself.

        Args:
            parameter: one of those that are trained.
        Returns: a view of the vector, float32, in the parameter's shape; always the same one.
        Raises:
            ValueError: if the parameter is none of those.
        """
        if parameter not in self._grad_of:
            raise ValueError(f"parameter of shape {tuple(parameter.shape)}: is not trained by these weights; ask for "
                             "one of this model that had requires_grad when they were made")
        return self._grad_of[parameter]

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


def _pieces(flat: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    r"""A vector cut into views, one for each parameter, in its shape."""
    pieces = flat.split([parameter.numel() for parameter in parameters])
    return [piece.view(parameter.shape) for piece, parameter in zip(pieces, parameters, strict=True)]


def _point(parameters: Sequence[nn.Parameter], flat: Tensor) -> None:
    for parameter, piece in zip(parameters, _pieces(flat, parameters), strict=True):
        parameter.grad = None  # a gradient of another dtype must not meet the new data
        parameter.data = piece
