r"""Everything that decides how a model is trained, apart from the model, the data and the time."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from minillm.config.require import require
from minillm.training import schedule
from minillm.training.precision import DTYPES


@dataclass(frozen=True, kw_only=True)
class Recipe:
    r"""The settings of a training run; the defaults suit a small model and a minute.

    Args:
        learning_rate: the largest one.
        warmup_steps: steps until it is reached.
        schedule: how it comes down: `linear` or `cosine`.
        decay_share: for `linear`: the last part of the run in which it comes down, in (0, 1].
        floor: for `cosine`: where it ends, as a share of learning_rate.
        betas: AdamW's memory of gradients and of their squares.
        weight_decay: on matrices only.
        max_norm: gradients are clipped to this length.
        accumulation: batches that make one step.
        balance: coefficient of the loss that spreads the tokens over experts; only a mixture of experts has it.
        dtype: `auto`, `fp32`, `bf16` or `fp16`: what to compute in.
        compile: whether to use torch.compile.
        recompute: whether blocks compute their intermediates again in the backward pass instead of keeping them.
        kernel: whether our own kernel computes the blocks: in one process, on a CPU, in bf16 (see `own_kernel`).
    Raises:
        ValueError: if a setting is out of range; the message names it.
    Lesson: 08.
    """

    learning_rate: float = 3e-3
    warmup_steps: int = 50
    schedule: str = "linear"
    decay_share: float = 0.6
    floor: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    max_norm: float = 1.0
    accumulation: int = 1
    balance: float = 0.01
    dtype: str = "auto"
    compile: bool = False
    recompute: bool = False
    kernel: bool = False

    def __post_init__(self):
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "use a number above 0, such as 3e-3")
        require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "use at least 0")
        require(self.schedule in ("linear", "cosine"), "schedule", self.schedule, "use 'linear' or 'cosine'")
        require(0 < self.decay_share <= 1, "decay_share", self.decay_share, "use a share in (0, 1]")
        require(0 <= self.floor <= 1, "floor", self.floor, "use a share in [0, 1]")
        require(len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas), "betas", self.betas,
                "use two numbers in [0, 1), such as (0.9, 0.95)")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "use at least 0")
        require(self.max_norm > 0, "max_norm", self.max_norm, "use a number above 0, or math.inf for no clipping")
        require(isinstance(self.accumulation, int) and self.accumulation >= 1, "accumulation", self.accumulation,
                "use a whole number of at least 1")
        require(self.balance >= 0, "balance", self.balance, "use at least 0")
        require(self.dtype in ("auto", *DTYPES), "dtype", self.dtype, f"use one of {['auto', *DTYPES]}")
        require(not (self.compile and self.recompute), "recompute", self.recompute, "compile and recompute do not go "
                "together; choose one of them")
        require(not (self.kernel and (self.compile or self.recompute)), "kernel", self.kernel, "goes together with "
                "neither compile nor recompute; choose one of them")

    def lr_at(self, step: int, n_steps: int | float) -> float:
        r"""The learning rate of one step.

        Args:
            step: steps done before it.
            n_steps: steps in the whole run.
        Returns: the learning rate.
        """
        if self.schedule == "cosine":
            floor = self.floor * self.learning_rate
            return schedule.cosine_lr(step, n_steps, self.warmup_steps, self.learning_rate, floor)
        return schedule.linear_lr(step, n_steps, self.warmup_steps, self.learning_rate, self.decay_share)

    def to_dict(self) -> dict[str, Any]:
        r"""The recipe as plain JSON data; `Recipe.from_dict` reads it back. Lesson: 08."""
        return {**asdict(self), "betas": list(self.betas)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Recipe":
        r"""The recipe that `to_dict` wrote.

        Args:
            data: the mapping, as read from JSON.
        Returns: a validated recipe.
        Raises:
            ValueError: if a setting is unknown or out of range.
        """
        try:
            return cls(**{**data, "betas": tuple(data["betas"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"data={data!r}: not a recipe ({error}); write it with to_dict()") from error
