r"""Train one GPT on several ranks with plain data parallelism or with a stage of ZeRO, and count bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from minillm.config import ModelConfig
from minillm.model.gpt import GPT
from minillm.training import data_parallel, zero
from minillm.training.accumulation import MicroBatch
from minillm.training.wires import Wire
from minillm.training.zero_stages import FlatStage, GradientStage, WeightStage


@dataclass(frozen=True)
class ZeroReport:
    r"""What one rank has to tell after its steps.

    Args:
        weights: all of them, as one vector, in the order of the model's parameters.
        losses: of each step, over the targets of all ranks.
        kept: bytes that this rank holds when the gradients are there and the weights are about to move: `weights`,
            `gradients`, `optimizer`.
        sent: bytes that this rank has sent, all steps together: `weights`, `gradients`, and the few of `counts` and
            `losses`.
        most_gathered: bytes of weights that were whole at one time beyond what is kept; stage 3 only.
    Lesson: 08.
    """

    weights: Tensor
    losses: list[float]
    kept: dict[str, int]
    sent: dict[str, int]
    most_gathered: int


def train_with_zero(
    wire: Wire,
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    batches: Sequence[MicroBatch],
    stage: int,
    learning_rate: float,
    weight_decay: float = 0.1,
) -> ZeroReport:
    r"""What one rank does in a run of AdamW; float32, the same decay for all weights.

    Args:
        wire: to the other ranks.
        config: of the model; without dropout.
        weights: to begin with, as in `GPT(config).state_dict()`.
        batches: whole batches (token_ids, targets), one a step, the same on all ranks; each takes its own rows.
        stage: 0 is plain data parallelism, 1 to 3 are ZeRO's.
        learning_rate: size of a step.
        weight_decay: as in `adamw_step`.
    Returns: the report of this rank.
    Raises:
        ValueError: if stage is not 0 to 3, or the model has dropout.
    Source: Rajbhandari et al. 2019, ZeRO, section 5.
    Lesson: 08.
    """
    if stage not in zero.STAGES:
        raise ValueError(f"stage={stage}: use 0 (nothing is shared out), 1, 2 or 3")
    if config.dropout > 0:
        raise ValueError(f"config.dropout={config.dropout}: use 0, because stage 3 computes every forward pass twice")
    model = GPT(config)
    model.load_state_dict(weights)
    run = (FlatStage, FlatStage, GradientStage, WeightStage)[stage](model, wire, stage)
    losses, kept = [], {}
    before = dict(wire.sent)
    for step, batch in enumerate(batches, 1):
        losses.append(run.backward(*data_parallel.own_rows(*batch, wire.rank, wire.n_ranks)))
        kept = {name: sum(tensor.nbytes for tensor in tensors) for name, tensors in run.held().items()}
        run.update(step, learning_rate, weight_decay)
    sent = {name: count - before.get(name, 0) for name, count in wire.sent.items()}
    most_gathered = run.most_gathered  # before all are gathered to be looked at
    return ZeroReport(run.all_weights(), losses, kept, sent, most_gathered)


def all_stages(
    wire: Wire,
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    batches: Sequence[MicroBatch],
    learning_rate: float,
    weight_decay: float = 0.1,
) -> dict[int, ZeroReport]:
    r"""The same run four times: plain data parallelism, and ZeRO's stages 1, 2 and 3.

    Args:
        wire: to the other ranks.
        config: as in `train_with_zero`.
        weights: as in `train_with_zero`.
        batches: as in `train_with_zero`.
        learning_rate: as in `train_with_zero`.
        weight_decay: as in `train_with_zero`.
    Returns: this rank's report for each stage.
    Lesson: 08.
    """
    rest = (config, weights, batches)
    return {stage: train_with_zero(wire, *rest, stage, learning_rate, weight_decay) for stage in zero.STAGES}
