r"""Who depends on whom: change each token in turn and see which outputs move."""

from collections.abc import Callable

import torch
from torch import Tensor


def dependency_table(function: Callable[[Tensor], Tensor], x: Tensor, step: float = 1.0) -> Tensor:
    r"""How far each output moves when each input is changed; where nothing flows it is exactly 0.

    Args:
        function: (1, T, D) -> (1, T, ...), such as a block.
        x: (1, T, D), float; float64 tells small effects from none.
        step: what is added to every feature of a token.
    Returns: (T, T), row i, column j: how far output i moves when input j is changed.
    """
    before = function(x)
    columns = []
    for token in range(x.shape[1]):
        changed = x.clone()
        changed[:, token] += step
        columns.append((function(changed) - before)[0].flatten(1).abs().amax(-1))
    return torch.stack(columns, dim=1)
