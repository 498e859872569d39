r"""A whole GPT under tensor parallelism: its attentions and FFNs are split over the ranks, the rest is on all of them.

A block's input is the same on every rank. On the way back, the gradients by the ranks' parts have to be added up. So a
sum over ranks stands behind each part in the forward pass, and in front of it in the backward pass: four a block.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from minillm.config import AttentionOptions, Experts, Learned, ModelConfig, NoPosition, Rope, Sinusoidal
from minillm.model.gpt import GPT
from minillm.training import accumulation, collectives
from minillm.training.wires import Wire

SPLIT_BY_ROWS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
SPLIT_BY_COLUMNS = ("o_proj", "down_proj")
SPLIT_POSITIONS = (Learned, Sinusoidal, Rope, NoPosition)  # those that know nothing of the number of heads


class SumForward(torch.autograd.Function):
    r"""Adds up over ranks on the way forward; the gradient passes as it is. Megatron-LM's g. Lesson: 08."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, wire: Wire) -> Tensor:
        r"""The sum over ranks.

        Args:
            ctx: not used.
            x: this rank's summand.
            wire: to the other ranks.
        Returns: the sum.
        """
        with wire.counting("forward"):
            return collectives.all_reduce(x, wire)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        r"""Every summand moves the sum alike.

        Args:
            ctx: not used.
            grad: of the sum.
        Returns: the same gradient.
        """
        return grad, None


class SumBackward(torch.autograd.Function):
    r"""Passes on as it is; adds up the gradients over ranks on the way back. Megatron-LM's f. Lesson: 08."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, wire: Wire) -> Tensor:
        r"""x itself.

        Args:
            ctx: keeps the wire.
            x: the same on every rank.
            wire: to the other ranks.
        Returns: x.
        """
        ctx.wire = wire
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        r"""x went into the parts of all ranks, so that all of their gradients belong to it.

        Args:
            ctx: has the wire.
            grad: by this rank's part.
        Returns: the sum over ranks.
        """
        with ctx.wire.counting("backward"):
            return collectives.all_reduce(grad, ctx.wire), None


class SplitPart(nn.Module):
    r"""This rank's part of an attention or an FFN, between the two sums.

    Args:
        part: the same kind of module with fewer heads or hidden features.
        wire: to the other ranks.
    Lesson: 08.
    """

    def __init__(self, part: nn.Module, wire: Wire):
        super().__init__()
        self.part, self._wire = part, wire

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        return SumForward.apply(self.part(SumBackward.apply(x, self._wire), *args), self._wire)


def split_config(config: ModelConfig, n_ranks: int) -> ModelConfig:
    r"""What one rank builds: the same model with fewer heads and a narrower FFN.

    Args:
        config: of the whole model.
        n_ranks: how many share it.
    Returns: a configuration with 1 / n_ranks of the heads and of d_ff; d_model stays.
    Raises:
        ValueError: if heads or d_ff cannot be shared out, or a part is of a kind that is not split here.
    Lesson: 08.
    """
    plain = isinstance(config.attention, AttentionOptions) and not config.attention.qk_norm
    if isinstance(config.ffn, Experts) or not plain or not isinstance(config.position, SPLIT_POSITIONS):
        raise ValueError(f"config: ffn={config.ffn!r}, attention={config.attention!r}, position={config.position!r}: "
                         "only Mlp and Glu, attention without QK-norm, and positions that ignore heads are split here")
    if config.attention.o_bias or config.ffn.bias:
        raise ValueError("config: o_bias and ffn.bias must be False: every rank would add the bias to its summand")
    sizes = {"n_heads": config.n_heads, "n_kv_heads": config.n_kv_heads, "ffn.d_ff": config.ffn.d_ff}
    for name, size in sizes.items():
        if size % n_ranks:
            raise ValueError(f"config: {name}={size} cannot be shared out to n_ranks={n_ranks}; choose a multiple")
    return replace(config, n_heads=config.n_heads // n_ranks, n_kv_heads=config.n_kv_heads // n_ranks,
                   ffn=replace(config.ffn, d_ff=config.ffn.d_ff // n_ranks))


def split_weight(name: str, weight: Tensor, rank: int, n_ranks: int) -> Tensor:
    r"""A rank's part of one parameter.

    Args:
        name: of the parameter, as in the model's state_dict.
        weight: the whole.
        rank: whose part.
        n_ranks: how many share it.
    Returns: some rows, some columns, or the whole where all ranks have it (norms, embeddings, lm_head).
    Lesson: 08.
    """
    dim = split_dim(name)
    return weight if dim is None else weight.chunk(n_ranks, dim)[rank]


def split_dim(name: str) -> int | None:
    r"""Along which dimension a parameter is split.

    Args:
        name: of the parameter, as in the model's state_dict.
    Returns: 0 (rows), 1 (columns), or None where all ranks have the whole.
    Lesson: 08.
    """
    parts = set(name.split("."))
    return 0 if parts & set(SPLIT_BY_ROWS) else 1 if parts & set(SPLIT_BY_COLUMNS) else None


def split_gpt(config: ModelConfig, weights: dict[str, Tensor], wire: Wire) -> GPT:
    r"""This rank's part of a GPT: called by all ranks together with the same tokens, it gives the whole model's logits.

    Args:
        config: of the whole model.
        weights: its state_dict.
        wire: to the other ranks.
    Returns: a GPT whose attentions and FFNs are `SplitPart`.
    Source: Shoeybi et al. 2019, Megatron-LM, section 3; embeddings stay whole here.
    Lesson: 08.
    """
    model = GPT(split_config(config, wire.n_ranks))
    model.load_state_dict({k: split_weight(k, v, wire.rank, wire.n_ranks) for k, v in weights.items()})
    for block in model.blocks:
        block.attn, block.ffn = SplitPart(block.attn, wire), SplitPart(block.ffn, wire)
    return model


@dataclass(frozen=True)
class SplitReport:
    r"""What one rank has to tell after one forward and backward pass.

    Args:
        loss: of the batch.
        logits: (B, T, V).
        gradients: of its own parts, by the parameter's name.
        n_weights: numbers that this rank holds.
        sent: bytes that it has sent, `forward` and `backward`.
    Lesson: 08.
    """

    loss: float
    logits: Tensor
    gradients: dict[str, Tensor]
    n_weights: int
    sent: dict[str, int]


def split_forward_backward(
    wire: Wire, config: ModelConfig, weights: dict[str, Tensor], token_ids: Int[Tensor, "B T"],
    targets: Int[Tensor, "B T"],
) -> SplitReport:  # fmt: skip
    r"""What one rank does: build its part, go forward and back with the whole batch.

    Args:
        wire: to the other ranks.
        config: of the whole model.
        weights: its state_dict.
        token_ids: (B, T), int64, the same on all ranks.
        targets: (B, T), int64, the same on all ranks.
    Returns: the report of this rank.
    Lesson: 08.
    """
    model = split_gpt(config, weights, wire)
    with torch.no_grad():
        logits = model(token_ids)
    wire.sent.clear()
    loss = accumulation.batch_loss(model, token_ids, targets)
    loss.backward()
    gradients = {name.replace(".part.", "."): p.grad for name, p in model.named_parameters()}
    n_weights = sum(p.numel() for p in model.parameters())
    return SplitReport(loss.item(), logits, gradients, n_weights, dict(wire.sent))


def join_split(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    r"""Put the ranks' parts of the parameters, or of their gradients, together.

    Args:
        parts: of each rank, by the parameter's name.
    Returns: the whole ones; of what all ranks have, the first rank's.
    Lesson: 08.
    """
    dims = {name: split_dim(name) for name in parts[0]}
    return {name: parts[0][name] if dim is None else torch.cat([part[name] for part in parts], dim)
            for name, dim in dims.items()}
