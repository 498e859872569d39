r"""Pipeline parallelism: each rank has some of the blocks, and pieces of the batch pass from rank to rank.

Forward, a stage sends the residual stream to the next one; backward, it gets the gradient of what it has sent. A stage
starts on the second micro-batch while the next stage works on the first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from minillm.config import ModelConfig, T5Bias
from minillm.model.gpt import GPT
from minillm.model.stack import bind_blocks, embed_tokens, position_rule, scaled_head
from minillm.training import accumulation, collectives
from minillm.training.accumulation import MicroBatch
from minillm.training.pipeline_schedule import FORWARD, Slot, gpipe_order, one_f_one_b_order
from minillm.training.wires import Wire

SCHEDULES = ("gpipe", "1f1b")


@dataclass(frozen=True)
class StageWork:
    r"""What one stage has to tell after a forward and backward pass of the whole batch.

    Args:
        loss: over all targets; the same on every rank.
        gradients: of the parameters that this stage has, by their names in the whole model.
        order: what the stage did, one after the other.
        most_kept: micro-batches whose activations were kept at one time.
        sent: bytes that it has sent: `activations`, `gradients`, `tied` (of a shared embedding) and `losses`.
    Lesson: 08.
    """

    loss: float
    gradients: dict[str, Tensor]
    order: list[Slot]
    most_kept: int
    sent: dict[str, int]


def stage_blocks(n_layers: int, stage: int, n_stages: int) -> range:
    r"""Which blocks a stage has: as equal numbers as can be, in order.

    Args:
        n_layers: blocks in the model.
        stage: which, from 0.
        n_stages: how many.
    Returns: their indices.
    Raises:
        ValueError: if there are more stages than blocks.
    Lesson: 08.
    """
    if n_stages > n_layers:
        raise ValueError(f"n_stages={n_stages}: at most one stage a block, and there are {n_layers}")
    return range(n_layers * stage // n_stages, n_layers * (stage + 1) // n_stages)


def stage_function(model: GPT, stage: int, n_stages: int, seq_len: int) -> Callable[[Tensor], Tensor]:
    r"""What a stage computes.

    Args:
        model: a whole GPT, of which the stage uses its own part.
        stage: which, from 0.
        n_stages: how many.
        seq_len: tokens a row.
    Returns: token ids (the first stage) or the residual stream (the others) -> the residual stream, or logits (the
        last stage).
    Lesson: 08.
    """
    config, positions = model.config, torch.arange(seq_len)
    own = stage_blocks(config.n_layers, stage, n_stages)
    enter = (lambda x: model.dropout(model.emb_norm(x))) if stage == 0 else (lambda x: x)
    blocks = bind_blocks(config, model.blocks[own.start : own.stop], positions, None, enter)
    pos_emb = position_rule(config, model.pos_emb, model.tok_emb)

    def run(x: Tensor) -> Tensor:
        if stage == 0:
            x = embed_tokens(config, model.tok_emb)(x)
            x = x if pos_emb is None else x + pos_emb(positions)
        for block in blocks:
            x = block(x)
        return scaled_head(config, model.lm_head)(model.final_norm(x)) if stage == n_stages - 1 else x

    return run


def pipeline_gradients(
    wire: Wire,
    config: ModelConfig,
    weights: dict[str, Tensor],
    token_ids: Int[Tensor, "B T"],
    targets: Int[Tensor, "B T"],
    n_micro_batches: int,
    order: str = "gpipe",
) -> StageWork:
    r"""What one rank, a stage of the pipeline, does for the gradient of one batch.

    Args:
        wire: to the other ranks; there are as many stages as ranks.
        config: of the whole model; without dropout.
        weights: its state_dict; a real pipeline would load its own part only.
        token_ids: (B, T), int64; the first stage uses it.
        targets: (B, T), int64; the last stage uses it. Micro-batches weigh as much as they have targets.
        n_micro_batches: pieces of the batch, at most B.
        order: `gpipe` or `1f1b`.
    Returns: the report of this rank.
    Raises:
        ValueError: if order is neither, if there are fewer rows than micro-batches, or if blocks share a bias.
    Source: Huang et al. 2018, GPipe, section 2.3; Narayanan et al. 2021, section 2.2, for 1F1B. Without recomputing.
    Lesson: 08.
    """
    if order not in SCHEDULES:
        raise ValueError(f"order={order!r}: use one of {SCHEDULES}")
    if not 1 <= n_micro_batches <= len(token_ids):
        raise ValueError(f"n_micro_batches={n_micro_batches}: use 1 to {len(token_ids)}, the rows of the batch")
    if isinstance(config.position, T5Bias):
        raise ValueError(f"config: position={config.position!r} is shared by the blocks of all stages; use another one")
    model = GPT(config)
    model.load_state_dict(weights)
    pieces = list(zip(token_ids.tensor_split(n_micro_batches), targets.tensor_split(n_micro_batches), strict=True))
    slots = gpipe_order(n_micro_batches)
    if order == "1f1b":
        slots = one_f_one_b_order(wire.rank, wire.n_ranks, n_micro_batches)
    run = stage_function(model, wire.rank, wire.n_ranks, token_ids.shape[1])
    stage = _Stage(wire, run, pieces, config.d_model)
    for slot in slots:
        stage.forward(slot.micro_batch) if slot.kind == FORWARD else stage.backward(slot.micro_batch)
    stage.finish_sending()
    if config.tie_embeddings and wire.n_ranks > 1:
        _add_tied(wire, model.tok_emb.weight)
    with wire.counting("losses"):
        loss = collectives.all_reduce(stage.loss, wire).item()  # the other stages add nothing
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return StageWork(loss, gradients, slots, stage.most_kept, dict(wire.sent))


class _Stage:
    r"""Runs forward and backward passes of one stage, and keeps what lies between the two."""

    def __init__(self, wire: Wire, run: Callable[[Tensor], Tensor], pieces: Sequence[MicroBatch], d_model: int):
        self.wire, self.run, self.pieces, self.d_model = wire, run, pieces, d_model
        self.is_first, self.is_last = wire.rank == 0, wire.rank == wire.n_ranks - 1
        self.n_targets = sum(accumulation.count_targets(targets) for _, targets in pieces)
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}  # micro-batch -> what came in, what went out
        self.most_kept, self.loss, self._waiting = 0, torch.zeros(()), []

    def forward(self, micro: int) -> None:
        token_ids, targets = self.pieces[micro]
        x = token_ids
        if not self.is_first:
            x = self.wire.receive(torch.empty(*token_ids.shape, self.d_model), self.wire.rank - 1).requires_grad_()
        if self.is_last:
            share = accumulation.count_targets(targets) / self.n_targets
            if share:
                out = share * accumulation.batch_loss(lambda _: self.run(x), token_ids, targets)
            else:
                out = 0.0 * self.run(x).sum()  # nothing to learn, but the stage before waits for a gradient
            self.loss = self.loss + out.detach()
        else:
            out = self.run(x)
            self._send("activations", out, self.wire.rank + 1)
        self.kept[micro] = x, out
        self.most_kept = max(self.most_kept, len(self.kept))

    def backward(self, micro: int) -> None:
        x, out = self.kept.pop(micro)
        out.backward(None if self.is_last else self.wire.receive(out, self.wire.rank + 1))
        if not self.is_first:
            self._send("gradients", x.grad, self.wire.rank - 1)

    def finish_sending(self) -> None:
        for wait in self._waiting:
            wait()

    def _send(self, purpose: str, x: Tensor, to: int) -> None:
        with self.wire.counting(purpose):
            self._waiting.append(self.wire.send(x, to))


def _add_tied(wire: Wire, weight: Tensor) -> None:
    r"""A tied embedding stands on the first and on the last stage: both need the sum of its two gradients."""
    ends = (0, wire.n_ranks - 1)
    if wire.rank in ends:
        other = ends[1 - ends.index(wire.rank)]
        with wire.counting("tied"):
            wait = wire.send(weight.grad.clone(), other)
        came = wire.receive(weight.grad, other)
        wait()
        weight.grad += came
