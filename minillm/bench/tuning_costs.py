r"""What tuning costs, counted: bytes while a model is trained, operations while it writes. No clock is read."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from minillm.layers import paths
from minillm.training import accumulation
from minillm.training.state import TrainingState


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    r"""The memory under some tensors; what several of them share counts once.

    Args:
        tensors: any.
    Returns: bytes.
    """
    return sum({part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in tensors}.values())


@contextmanager
def activations_kept(model: nn.Module) -> Iterator[dict[str, int]]:
    r"""Inside, what autograd keeps for the backward pass is counted: each storage once, the model's own not at all.

    Args:
        model: whose parameters and buffers are not counted.
    Returns: a context manager; its value has "bytes".
    """
    kept = {part.untyped_storage()._cdata: part for part in (*model.parameters(), *model.buffers())}
    count = {"bytes": 0}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in kept:
            kept[storage._cdata] = tensor  # held, so that no other storage takes its place
            count["bytes"] += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield count


def training_memory(state: TrainingState, batch: tuple[Tensor, Tensor]) -> dict[str, int]:
    r"""What a step of training holds, measured on the tensors themselves: after the forward pass of one batch.

    Args:
        state: of a run in float32 that has ended.
        batch: token ids and targets, (B, T) each.
    Returns: bytes of "weights" (trained or not), "gradients", "moments" (AdamW's) and "activations", and their "total".
    """
    model = state.model
    model.train()
    with activations_kept(model) as kept:
        loss = accumulation.batch_loss(model, *batch)
    model.eval()
    assert loss.requires_grad
    averages = [memory[name] for memory in state.optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    parts = {
        "weights": storage_bytes([*model.parameters(), *model.buffers()]),
        "gradients": storage_bytes(state.weights.gradients()),
        "moments": storage_bytes(averages),
        "activations": kept["bytes"],
    }
    return {**parts, "total": sum(parts.values())}


class ProductCounter(TorchDispatchMode):
    r"""Inside this context matrix products are counted, and the operations in them, a multiply and an add being two.

    Attributes: `products`, how many; `flops`, in all of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.products, self.flops = 0, 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        r"""No: torch would import its compiler only to keep it away from the method below."""
        return False

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Sequence[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if count := flop_registry.get(function._overloadpacket):
            self.products += 1
            self.flops += count(*args, **(kwargs or {}), out_val=result)
        return result


def token_cost(model: nn.Module, kv_len: int = 64) -> dict[str, int]:
    r"""What it takes to write one more token after a text, with a cache.

    Args:
        model: called and cached like a GPT.
        kv_len: tokens before it.
    Returns: "flops" of its matrix products, and "products", how many follow one another; on the plain path.
    """
    token_ids = torch.zeros(1, kv_len + 1, dtype=torch.int64)
    cache = model.new_cache(1, kv_len + 1)
    with torch.no_grad(), paths.plain_path():
        model(token_ids[:, :-1], cache=cache)
        with ProductCounter() as counter:
            model(token_ids[:, -1:], cache=cache)
    return {"flops": counter.flops, "products": counter.products}
