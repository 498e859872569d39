r"""A device that does not exist and computes all the same; see `tests/pretend.py`, where there are no numbers.

What chooses places by numbers (block tables, masks as indices, `tolist`) needs some. So here a tensor on `pretend`
keeps its numbers on the CPU: every operation is done there, and its result is said to lie on `pretend` again. An
operation for which one of its tensors was left on the CPU fails, as it would on a GPU.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests import pretend

MOVES = (torch.ops.aten.copy_.default,)  # reads on one device and writes on another; `_to_copy` has one tensor only


class Pretended(Tensor):
    r"""A tensor that says that it lies on `pretend`.

    Args:
        numbers: on the CPU; views of one memory stay views of it.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # all is done below, where every operation passes

    @staticmethod
    def __new__(cls, numbers):
        with torch.inference_mode(numbers.is_inference()):  # a view of an ordinary tensor is one in that mode too
            return Tensor._make_wrapper_subclass(
                cls, numbers.shape, strides=numbers.stride(), storage_offset=numbers.storage_offset(),
                dtype=numbers.dtype, device="pretend:0")

    def __init__(self, numbers):
        self.numbers = numbers

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        with PretendNumbers():
            return func(*args, **(kwargs or {}))

    @property
    def data(self):
        return self.detach()

    @data.setter
    def data(self, new):
        Tensor.data.__set__(self, new)  # refuses a tensor of the CPU
        self.numbers = new.numbers

    def tolist(self):
        return self.numbers.tolist()

    def __format__(self, spec):
        return format(self.item() if self.dim() == 0 else str(self), spec)

    def __repr__(self):
        return f"Pretended({self.numbers!r})"


class PretendNumbers(TorchDispatchMode):
    r"""While it lasts, `device="pretend"` makes tensors with numbers.

    Make a model there, by `with torch.device(...)`: torch's `Module.to`, which can only make new parameters of it,
    would part those that two modules share.
    """

    @classmethod
    def _should_skip_dynamo(cls):
        return False  # nothing is compiled here, and to be sure of it torch would import its compiler for seconds

    def __enter__(self):
        self.lifts_only = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # else torch.tensor(a list, device=...) moves it where no mode looks
        return super().__enter__()

    def __exit__(self, *error):
        torch._C._set_only_lift_cpu_tensors(self.lifts_only)
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        with PretendNumbers():  # what torch writes out as other operations is looked at by its parts
            parts = func.decompose(*args, **(kwargs or {}))
        return computed(func, args, kwargs or {}) if parts is NotImplemented else parts


def computed(func: Any, args: tuple, kwargs: Mapping[str, Any]) -> Any:
    r"""One operation, done on the CPU; its results are on `pretend` if that was asked for, or else if an input is."""
    inputs: list[Tensor] = []
    each_tensor([args, *kwargs.values()], lambda t: inputs.append(t) or t)
    asked = kwargs.get("device")
    there = any(isinstance(t, Pretended) for t in inputs) if asked is None else asked.type == "pretend"
    refuse_what_a_gpu_refuses(func, args, kwargs, inputs, there)
    cpu_kwargs = {name: each_tensor(value, numbers_of) for name, value in kwargs.items()}
    if asked is not None and there:
        cpu_kwargs["device"] = torch.device("cpu")
    out = func(*each_tensor(args, numbers_of), **cpu_kwargs)
    for t in inputs:
        if isinstance(t, Pretended) and (t.shape, t.stride()) != (t.numbers.shape, t.numbers.stride()):
            raise RuntimeError(f"{func}: a tensor that gets another shape in place can't be pretended")
    # What works in place, or into out=, hands back the very tensor that it was given.
    given = {id(numbers_of(t)): t for t in inputs}
    return each_tensor(out, lambda t: given[id(t)] if id(t) in given else Pretended(t) if there else t)


def each_tensor(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    r"""The same value, a tensor or lists of whatever, with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    return type(value)(each_tensor(part, change) for part in value) if isinstance(value, list | tuple) else value


def numbers_of(t: Tensor) -> Tensor:
    r"""What lies on the CPU."""
    return t.numbers if isinstance(t, Pretended) else t


def refuse_what_a_gpu_refuses(func: Any, args: tuple, kwargs: Mapping[str, Any], inputs: list, there: bool) -> None:
    r"""Tensors on two devices, and random numbers from a generator on another one.

    A GPU takes single numbers (of no dimension) from the CPU where it works number by number, and as the value that is
    written to some places; so does this. A GPU also takes indices from the CPU, which is refused here: each is copied
    over while all else waits, so an index made on the CPU has been forgotten there.
    """
    if there and kwargs.get("generator") is not None:
        raise RuntimeError(f"{func}: the generator must be on the same device as what it fills")
    plain = [t for t in inputs if not isinstance(t, Pretended)]
    if func in MOVES or not plain or len(plain) == len(inputs):
        return
    named = {**dict(zip((a.name for a in func._schema.arguments), args, strict=False)), **kwargs}
    written = [named.get(a.name) for a in func._schema.arguments if a.alias_info and a.alias_info.is_write]
    value, mask = named.get("value", named.get("values")), named.get("mask")
    for t in plain:
        single = t.dim() == 0 and t is not mask and (t is value or torch.Tag.pointwise in func.tags)
        if not single or any(t is other for other in written):
            raise RuntimeError(f"{func}: all tensors must be on the same device, and one of shape {tuple(t.shape)} is "
                               "on the CPU")


def tell_numbers(
    cases: Mapping[str, Callable[[str], Tensor]], wanted: Mapping[str, Callable[[], Tensor]] = MappingProxyType({})
) -> None:
    r"""Print a line a case: where its tensor lies, and whether its numbers are right, or what went wrong.

    Args:
        cases: by name; each is called with a device, and must give the same on every one.
        wanted: for some of them, another way to the same numbers, on the CPU.
    """
    pretend.teach()
    for name, case in cases.items():
        with torch.no_grad():
            here = case("cpu")
            other = wanted[name]() if name in wanted else here
            try:
                with PretendNumbers():
                    got = case("pretend")
                print(f"{name}: {got.device}, {verdict(got.cpu(), here, other)}")
            except RuntimeError as error:
                print(f"{name}: {str(error).splitlines()[0]}")


def verdict(got: Tensor, here: Tensor, other: Tensor) -> str:
    r"""Whether numbers are those of the same on the CPU, and those of another way there.

    Nearly: of several ways to attend torch takes one on the CPU that it does not take elsewhere.
    """
    for want, source in ((here, "the CPU"), (other, "the other way")):
        same = (got.shape, got.dtype) == (want.shape, want.dtype)
        if not same or not torch.allclose(got, want, rtol=1e-7, atol=1e-9, equal_nan=True):
            return f"not the numbers of {source}"
    return "right"
