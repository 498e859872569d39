r"""All that a training run is, at one moment: what must be saved so that it can go on as if nothing had happened."""

from collections import Counter

import torch
from torch import Tensor, nn

from minillm.training.distributed.ranks import Ranks
from minillm.training.optimizer import make_adamw
from minillm.training.precision import START_SCALE, resolve_dtype
from minillm.training.recipe import Recipe
from minillm.training.weights import make_weights

COUNTERS = {"step": int, "tokens": int, "seconds": float, "dtype": str, "loss_scale": float, "good_steps": int,
            "optimizer_steps": int}


class TrainingState:
    r"""A model, its optimizer, and the counters of the run.

    Attributes: `step`, `tokens` (counted targets so far), `seconds` (training time so far), `dtype` (what is computed
    in: the recipe's, with `auto` resolved), `loss_scale` and `good_steps` (for fp16), `optimizer_steps` (steps that
    were not skipped for an overflow), `passes` (blocks' forward passes with gradients that our `kernel` has computed,
    and that it left to `PyTorch`, since it was last taken up; empty without it).

    Args:
        model: its trained parameters float32, on the device to train on; the same in all processes. Parameters that
            need no gradient stay as they are.
        recipe: how to train it.
        ranks: the processes that train it together; by default this one alone.
    Raises:
        ValueError: if the model has no parameters to train or they are not float32, or several processes were to
            compile it.
    Lesson: 08.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, ranks: Ranks | None = None):
        if next(model.parameters(), None) is None:
            raise ValueError(f"model={type(model).__name__}: has no parameters to train")
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError(f"model={type(model).__name__}: all of its parameters are frozen; train all of them after "
                             "model.requires_grad_(True), or a small part by a method of minillm.tuning")
        if recipe.compile and ranks is not None and ranks.parallel is not None:
            raise ValueError(f"compile=True: does not go together with parallel={ranks.parallel!r}; leave one out")
        self.model, self.recipe, self.ranks = model, recipe, ranks or Ranks()
        self.device = next(model.parameters()).device
        self.dtype = self.ranks.first(resolve_dtype(recipe.dtype, self.device))
        self.weights = make_weights(model, self.ranks, self.dtype)
        self.optimizer = make_adamw(*self.weights.groups(), recipe.betas, recipe.weight_decay)
        self._fill_memory()
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.loss_scale = START_SCALE if self.dtype == "fp16" else 1.0
        self.good_steps, self.passes = 0, Counter()

    def counters(self) -> dict[str, int | float | str]:
        r"""The numbers of the run, as plain JSON data."""
        return {name: getattr(self, name) for name in COUNTERS}

    def tensors(self) -> dict[str, Tensor]:
        r"""The weights and AdamW's two averages, for each parameter, as they stand: to write into them changes the run.

        Returns: `model.NAME` for every parameter, `exp_avg.NAME` and `exp_avg_sq.NAME` for every trained one, in its
            shape; what is trained is float32.
        """
        named = {f"model.{name}": tensor for name, tensor in self.weights.named_masters().items()}
        for kind in ("exp_avg", "exp_avg_sq"):
            averages = {parameter: memory[kind] for parameter, memory in self.optimizer.state.items()}
            named |= {f"{kind}.{name}": tensor for name, tensor in self.weights.by_name(averages).items()}
        return named

    @property
    def optimizer_steps(self) -> int:
        r"""How many steps AdamW has taken: all but those that were skipped for an overflow."""
        return int(next(iter(self.optimizer.state.values()))["step"])

    @optimizer_steps.setter
    def optimizer_steps(self, n_steps: int) -> None:
        r"""Have it go on as after so many."""
        for memory in self.optimizer.state.values():
            memory["step"] = torch.full_like(memory["step"], n_steps)

    def _fill_memory(self) -> None:
        r"""What AdamW would make at its first step, now: so that a checkpoint has always the same tensors."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                device = parameter.device if group.get("fused") else "cpu"
                self.optimizer.state[parameter] = {
                    "step": torch.zeros((), device=device), "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter)}
