r"""Count what a piece of code takes, to the byte and to the operation, the same on any machine; or time it."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from minillm.course.judge.compare import tensors_in


class MemoryLedger(TorchDispatchMode):
    r"""Inside this context every new tensor is written down, and crossed out when it dies; products are counted.

    Counted are tensors that are made inside; views take no memory of their own. What one kernel of torch needs for
    itself, and frees before it returns, is not seen.

    Attributes: `peak_bytes` alive at one time at most; `largest`, the number of elements of the largest tensor;
        `flops` of matrix products and convolutions, a multiply and an add being two.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak_bytes = 0
        self.largest = 0
        self.flops = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        r"""No: torch would import its compiler, for seconds, only to keep it away from the method below."""
        return False

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Sequence[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        before = {part.untyped_storage()._cdata for part in tensors_in((args, kwargs))}
        result = function(*args, **(kwargs or {}))
        if count := flop_registry.get(function._overloadpacket):
            self.flops += count(*args, **(kwargs or {}), out_val=result)
        for part in tensors_in(result):
            if part.untyped_storage()._cdata not in before:
                self._write_down(part)
        self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
        self.peak_bytes = max(self.peak_bytes, sum(size for _, size in self._alive.values()))
        return result

    def _write_down(self, made: Tensor) -> None:
        storage = made.untyped_storage()
        self.largest = max(self.largest, storage.nbytes() // made.element_size())
        self._alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())


class KernelClock(TorchDispatchMode):
    r"""Inside this context every kernel of torch is timed, those of the backward pass too.

    Attributes: `seconds`, by the kernel's name in torch (`addmm`, `_softmax`, ...).
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        r"""No: as in `MemoryLedger`."""
        return False

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Sequence[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        start = time.perf_counter()
        result = function(*args, **(kwargs or {}))
        name = function._overloadpacket.__name__
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        return result


class LargestTensor(TorchFunctionMode):
    r"""Inside this context the largest tensor is noted that a call from Python makes: all that a judge must know.

    It sees less than MemoryLedger (nothing inside torch's own functions) and costs a fraction of the time.

    Attributes: `numbers`, the elements of that tensor's storage.
    """

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_function__(
        self, function: Callable[..., Any], types: Sequence[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        before = {part.untyped_storage()._cdata for part in tensors_in((args, kwargs))}
        result = function(*args, **(kwargs or {}))
        for part in tensors_in(result):
            storage = part.untyped_storage()
            if storage._cdata not in before:
                self.numbers = max(self.numbers, storage.nbytes() // part.element_size())
        return result


@contextmanager
def kept_for_backward(but_not: Iterable[Tensor] = ()) -> Iterator[dict[str, int]]:
    r"""Count what autograd keeps until the backward pass, inputs and weights included, each storage once.

    Args:
        but_not: tensors that are not counted, such as a model's parameters.
    Returns: a context manager; its value has "bytes", and "largest", the elements of the largest tensor that is kept.
    """
    count = {"bytes": 0, "largest": 0}
    seen = {tensor.untyped_storage()._cdata: tensor for tensor in but_not}

    def pack(kept: Tensor) -> Tensor:
        storage = kept.untyped_storage()
        if storage._cdata not in seen:
            seen[storage._cdata] = kept  # held, so that no other storage takes its place in memory
            count["bytes"] += storage.nbytes()
            count["largest"] = max(count["largest"], storage.nbytes() // kept.element_size())
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
        yield count
