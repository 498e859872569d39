r"""Weights in pieces: every process keeps its rows of each parameter, of its gradient and of AdamW's memory (ZeRO-3).

    own rows (float32)  --all-gather, one block at a time-->  the block's weights (fp32, bf16 or fp16), for its pass
          ^                                                          |  forward, backward
       optimizer  <--reduce-scatter: the mean over processes, float32--  gradients

torch's `fully_shard` (FSDP2) does this; a parameter becomes a DTensor: it behaves like the whole, and holds a piece. So
clipping and AdamW are the same code as ever.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from minillm.training.flat import require_float32
from minillm.training.optimizer import decay_groups


class ShardedWeights:
    r"""The same methods as `FlatWeights`, for a model whose weights are spread over all processes.

    Args:
        model: float32, the same in all processes; its parameters are replaced by pieces, for good. All are trained.
        dtype: what to compute in.
        world_size: how many processes there are.
    Raises:
        ValueError: if a parameter is frozen, or not float32.
    Source: Zhao et al. 2023, PyTorch FSDP; Rajbhandari et al. 2019, ZeRO, section 5.3.
    Lesson: 08.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, world_size: int):
        frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
        if frozen:
            raise ValueError(f"parallel='fsdp': {len(frozen)} parameters, such as {frozen[0]}, are frozen, and their "
                             "numbers are shared with another model that has to stay whole, so that to cut them up "
                             "would save nothing; train with parallel='ddp', which sends the small part alone")
        require_float32(model)
        device = next(model.parameters()).device
        mesh = init_device_mesh(device.type, (world_size,))
        # cast_forward_inputs: what a block is given beside x, such as the angles of RoPE, stays in float32.
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for part in (*getattr(model, "blocks", ()), model):
            fully_shard(part, mesh=mesh, mp_policy=policy)
        self.forward = model
        self._parameters = dict(model.named_parameters())
        self._decayed = decay_groups(model)[0]

    def groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        r"""The parameters with weight decay, and those without."""
        decayed = [self._parameters[name] for name in self._decayed]
        return decayed, [p for name, p in self._parameters.items() if name not in self._decayed]

    @contextmanager
    def attached(self, dtype: torch.dtype) -> Iterator[None]:
        r"""Nothing to prepare: the pieces are float32, and every pass makes its own copy in the dtype."""
        yield

    def named_masters(self) -> dict[str, Tensor]:
        r"""Every parameter, a DTensor in float32, by its name; detached."""
        return {name: parameter.detach() for name, parameter in self._parameters.items()}

    def by_name(self, values: Mapping[Tensor, Tensor]) -> dict[str, Tensor]:
        r"""Values that belong to parameters, such as AdamW's averages, by the parameter's name."""
        return {name: values[parameter] for name, parameter in self._parameters.items()}

    def zero_gradients(self) -> None:
        r"""Forget all gradients."""
        for parameter in self._parameters.values():
            parameter.grad = None

    def collect_gradients(self) -> None:
        r"""Nothing to do: they arrive in float32, and add up."""

    def gradients(self) -> list[Tensor]:
        r"""The gradients, DTensors in float32."""
        return [parameter.grad for parameter in self._parameters.values()]

    def set_gradients(self, grads: list[Tensor]) -> None:
        r"""Put other gradients in their place.

        Args:
            grads: as many as `gradients` gives, of the same shapes.
        """
        for parameter, grad in zip(self._parameters.values(), grads, strict=True):
            parameter.grad = grad

    def publish(self) -> None:
        r"""Nothing to do: the next pass gathers what the optimizer has changed."""
