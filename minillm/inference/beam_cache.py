r"""A layer cache whose rows can be put in another order: each beam goes on from the one that it grew from."""

import torch
from jaxtyping import Int
from torch import Tensor

from minillm.layers.sizes import require_at_least_one


class BeamCache:
    r"""Two tensors and positions of the tokens seen so far, a row for each beam.

    It keeps whatever two tensors a layer hands it, with tokens along the dimension before the last: keys and values, or
    the latents and rotated keys of latent attention.

    Args:
        capacity: tokens a sequence, at least 1.
    Raises:
        ValueError: if capacity is less than 1.
    Lesson: 09.
    """

    def __init__(self, capacity: int):
        require_at_least_one(capacity=capacity)
        self.capacity = capacity
        self.length = 0
        self._kept: tuple[Tensor, Tensor, Tensor] | None = None

    def append(self, k: Tensor, v: Tensor, positions: Int[Tensor, "*b T"]) -> tuple[Tensor, Tensor, Tensor]:
        r"""Put the new tokens behind the old ones and return everything so far.

        Args:
            k: of the new tokens, (B, ..., T, features).
            v: the same, perhaps with another number of features.
            positions: (T,) or (B, T), int; -1 = padding.
        Returns: both tensors so far and their positions, (B, length).
        Raises:
            ValueError: if the tokens do not fit.
        """
        if self.length + k.shape[-2] > self.capacity:
            raise ValueError(f"k has {k.shape[-2]} tokens: with the {self.length} cached ones that is more than "
                             f"capacity={self.capacity}; make the cache larger")
        positions = positions.expand(len(k), -1)
        if self._kept is None:
            self._kept = (k, v, positions)
        else:
            pairs = zip(self._kept, (k, v, positions), (-2, -2, -1), strict=True)
            self._kept = tuple(torch.cat([old, new], dim) for old, new, dim in pairs)
        self.length += k.shape[-2]
        return self._kept

    def choose(self, rows: Int[Tensor, "B_new"]) -> None:
        r"""Replace the rows by copies of some of them.

        Args:
            rows: which row each new one is a copy of; their number may differ from before.
        """
        if self._kept is not None:
            k, v, positions = self._kept
            self._kept = (k[rows], v[rows], positions[rows])
