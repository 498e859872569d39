r"""Draw the sizes, numbers and tensors of an exercise's cases."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Draw:
    r"""A seeded source of everything a case may need, so that cases are new each time and can still be repeated.

    Args:
        seed: any int; the same seed draws the same cases.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.generator = torch.Generator().manual_seed(seed)

    def size(self, low: int, high: int) -> int:
        r"""Draw a whole number.

        Args:
            low: the smallest that may come.
            high: the largest that may come.
        Returns: a number of low..high.
        """
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def sizes(self, count: int, low: int, high: int) -> list[int]:
        r"""Draw different whole numbers, so that two axes that have been swapped show in the shape.

        Args:
            count: how many.
            low: the smallest that may come.
            high: the largest that may come; at least `count` numbers must lie between the two.
        Returns: `count` different numbers of low..high, in random order.
        """
        order = torch.randperm(high - low + 1, generator=self.generator)[:count]
        return [low + int(i) for i in order]

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
        r"""Draw from the normal distribution.

        Args:
            shape: the sizes of the tensor.
            dtype: its type.
            scale: its standard deviation.
        Returns: a tensor of that shape and type.
        """
        return (scale * torch.randn(shape, generator=self.generator, dtype=torch.float64)).to(dtype)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        r"""Draw whole numbers into a tensor.

        Args:
            low: the smallest that may come.
            high: the largest that may come.
            shape: the sizes of the tensor.
        Returns: an int64 tensor.
        """
        return torch.randint(low, high + 1, shape, generator=self.generator)

    def booleans(self, *shape: int, share: float = 0.5) -> Tensor:
        r"""Draw True with a given probability.

        Args:
            shape: the sizes of the tensor.
            share: the probability of True.
        Returns: a bool tensor.
        """
        return torch.rand(shape, generator=self.generator) < share

    def choice(self, options: Sequence[Any]) -> Any:
        r"""Take one of several.

        Args:
            options: at least one.
        Returns: one of them.
        """
        return options[self.size(0, len(options) - 1)]

    def new_generator(self) -> torch.Generator:
        r"""Make a generator for a function that takes one.

        Returns: a fresh torch.Generator with a drawn seed.
        """
        return torch.Generator().manual_seed(self.size(0, 2**31))
