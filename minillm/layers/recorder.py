r"""Look inside a running model without a flag on every forward: a context that records what parts report."""

from collections.abc import Iterator
from contextlib import contextmanager

from jaxtyping import Float
from torch import Tensor

_tapes: list[dict[str, list[Tensor]]] = []


def recording() -> bool:
    r"""Whether anyone listens; parts compute what only a listener needs just then. Lesson: 02."""
    return bool(_tapes)


def report(name: str, value: Float[Tensor, "..."]) -> None:
    r"""Hand a tensor to the listener, if there is one.

    Args:
        name: what it is, e.g. `attn_weights` or `residual`.
        value: the tensor; kept detached.
    Lesson: 02.
    """
    if _tapes:
        _tapes[-1].setdefault(name, []).append(value.detach())


@contextmanager
def record() -> Iterator[dict[str, list[Tensor]]]:
    r"""Record what the model reports inside the context: name -> one tensor a layer, in order.

    `attn_weights` are (B, H, Tq, Tk); `residual` is (B, T, D): first after the embedding, then after each block.

    Returns: the tape, a dictionary that fills while the context is open.
    Lesson: 02.
    """
    tape: dict[str, list[Tensor]] = {}
    _tapes.append(tape)
    try:
        yield tape
    finally:
        _tapes.remove(tape)
