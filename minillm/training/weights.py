r"""Where a run keeps its weights: in one process, the same in several, or in pieces.

All kinds have the methods that the loop uses: `forward` (what to call on a batch), `groups`, `attached`,
`zero_gradients`, `collect_gradients`, `gradients`, `set_gradients`, `publish`, `named_masters` and `by_name`.
"""

from typing import TYPE_CHECKING

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from minillm.training.distributed.ranks import Ranks
from minillm.training.flat import FlatWeights
from minillm.training.precision import DTYPES

if TYPE_CHECKING:
    from minillm.training.distributed.fsdp import ShardedWeights


def make_weights(model: nn.Module, ranks: Ranks, dtype: str) -> "FlatWeights | ShardedWeights":
    r"""The weights of a run, as its processes want them.

    With `ddp` each process has all of them, flat, and torch averages the gradients over the processes during each
    backward pass, in the dtype that is computed in.

    Args:
        model: with float32 parameters, the same in all processes.
        ranks: the processes.
        dtype: `fp32`, `bf16` or `fp16`: what to compute in.
    Returns: the weights.
    Raises:
        ValueError: if a parameter is not float32.
    Source: Li et al. 2020, PyTorch Distributed, for ddp.
    Lesson: 08.
    """
    if ranks.parallel == "fsdp":
        from minillm.training.distributed.fsdp import ShardedWeights  # a second to import, and for this alone

        return ShardedWeights(model, DTYPES[dtype], ranks.world_size)
    return FlatWeights(model, averaged_over_ranks if ranks.parallel == "ddp" else None)


def averaged_over_ranks(model: nn.Module) -> nn.Module:
    r"""The model, so that after each backward pass its gradients are the mean over all processes.

    Args:
        model: its parameters on one device.
    Returns: what to call in its place; the parameters are the same.
    Lesson: 08.
    """
    device = next(model.parameters()).device
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)
