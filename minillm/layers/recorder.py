r"""Look inside a running model without a flag on every forward: a context that records what parts report."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from jaxtyping import Shaped
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Listener:
    r"""Who is told what.

    Args:
        names: what is wanted; empty = everything.
        keep_graph: whether gradients can flow back through what is recorded.
        tape: name -> what was reported under it, in order.
    Lesson: 02.
    """

    names: tuple[str, ...]
    keep_graph: bool
    tape: dict[str, list[Tensor]] = field(default_factory=dict)

    def wants(self, name: str) -> bool:
        r"""Whether this is to be recorded.

        Args:
            name: what a part reports.
        Returns: True if it is.
        """
        return not self.names or name in self.names


_listeners: list[Listener] = []


def recording(name: str | None = None) -> bool:
    r"""Whether anyone listens; parts compute what only a listener needs just then.

    Args:
        name: what would be reported, e.g. `attn_weights`; None = anything.
    Returns: True if it would be recorded.
    Lesson: 02.
    """
    return bool(_listeners) and (name is None or _listeners[-1].wants(name))


def report(name: str, value: Shaped[Tensor, "..."]) -> None:
    r"""Hand a tensor to the listener, if there is one.

    Args:
        name: what it is, e.g. `attn_weights` or `residual`.
        value: the tensor; kept detached, unless the listener wants gradients.
    Lesson: 02.
    """
    if recording(name):
        listener = _listeners[-1]
        listener.tape.setdefault(name, []).append(value if listener.keep_graph else value.detach())


@contextmanager
def record(*names: str, keep_graph: bool = False) -> Iterator[dict[str, list[Tensor]]]:
    r"""Record what the model reports inside the context: name -> one tensor a layer, in order.

    `attn_weights` are (B, H, Tq, Tk); `residual` is (B, T, D): first after the embedding, then after each block;
    `router_logits` are (B, T, E) and `router_indices` (B, T, K), of a mixture of experts.

    Args:
        names: what to record; none = everything.
        keep_graph: False = values only; True = a loss made of them reaches the model's weights.
    Returns: the tape, a dictionary that fills while the context is open.
    Lesson: 02.
    """
    listener = Listener(names, keep_graph)
    _listeners.append(listener)
    try:
        yield listener.tape
    finally:
        _listeners.remove(listener)
