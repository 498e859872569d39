r"""Weights that stay in their file until they are asked for, one by one."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class StoredTensor:
    r"""A tensor in a file.

    Args:
        shape: its sizes.
        read: gives the tensor.
    """

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


class FileState(Mapping[str, Tensor]):
    r"""A state_dict whose tensors are read from a file each time that they are asked for.

    Only what has two names (tied weights) is kept once it has been read, so that both give the same memory.

    Args:
        stored: where each tensor lies.
        aliases: further names, and which of the stored tensors they mean.
    """

    def __init__(self, stored: Mapping[str, StoredTensor], aliases: Mapping[str, str] | None = None):
        self.stored, self.aliases = dict(stored), dict(aliases or {})
        self._kept: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        name = self.aliases.get(name, name)
        if name in self._kept:
            return self._kept[name]
        tensor = self.stored[name].read()
        if name in self.aliases.values():
            self._kept[name] = tensor
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self.stored or name in self.aliases

    def __iter__(self) -> Iterator[str]:
        yield from self.stored
        yield from self.aliases

    def __len__(self) -> int:
        return len(self.stored) + len(self.aliases)

    def n_values(self) -> int:
        r"""How many numbers lie in the file."""
        return sum(math.prod(each.shape) for each in self.stored.values())
