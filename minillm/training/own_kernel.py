r"""When a run computes its blocks by our own kernel (see `training.fast`), and what stands in the way.

The kernel itself is imported only by a run that asks for it: nobody else waits for a compiler.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from minillm.training.distributed.ranks import Ranks
from minillm.training.state import TrainingState


def kernel_obstacle(model: nn.Module, dtype: str, ranks: Ranks | None = None) -> str | None:
    r"""Why a run cannot use the kernel; where nothing else stands in the way, it is built to find out.

    Args:
        model: to be trained, on its device.
        dtype: what is computed in: `fp32`, `bf16` or `fp16`.
        ranks: the processes that train it; by default this one alone.
    Returns: the reason; None = it can be used.
    Lesson: 08.
    """
    if ranks is not None and ranks.parallel is not None:
        return f"the kernel works in one process, and parallel={ranks.parallel!r} is for several"
    from minillm.training.fast import blocks

    return blocks.why_not(model, dtype, next(model.parameters()).device)


@contextmanager
def computed_by_kernel(state: TrainingState) -> Iterator[None]:
    r"""Inside, the blocks of a run's model are computed by the kernel, if its recipe says so.

    Args:
        state: the run, its weights attached; its `passes` begin anew.
    Returns: a context manager.
    Raises:
        ValueError: if the recipe asks for the kernel and it cannot be used; the message says why.
    Lesson: 08.
    """
    if not state.recipe.kernel:
        yield
        return
    if (obstacle := kernel_obstacle(state.model, state.dtype, state.ranks)) is not None:
        raise ValueError(f"kernel=True: {obstacle}; train with kernel=False")
    from minillm.training.fast import blocks

    with blocks.kernel_blocks(state.model, state.weights.gradient_of) as state.passes:
        yield
