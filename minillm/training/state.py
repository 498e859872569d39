r"""All that a training run is, at one moment: what must be saved so that it can go on as if nothing had happened."""

import torch
from torch import Tensor, nn

from minillm.training.flat import FlatWeights
from minillm.training.optimizer import make_adamw
from minillm.training.precision import START_SCALE, resolve_dtype
from minillm.training.recipe import Recipe


class TrainingState:
    r"""A model, its optimizer, and the counters of the run.

    Attributes: `step`, `tokens` (counted targets so far), `seconds` (training time so far), `dtype` (what is computed
    in: the recipe's, with `auto` resolved), `loss_scale` and `good_steps` (for fp16).

    Args:
        model: with float32 parameters, on the device to train on.
        recipe: how to train it.
    Raises:
        ValueError: if the model has no parameters or is not float32.
    Lesson: 08.
    """

    def __init__(self, model: nn.Module, recipe: Recipe):
        if next(model.parameters(), None) is None:
            raise ValueError(f"model={type(model).__name__}: has no parameters to train")
        self.model, self.recipe = model, recipe
        self.device = next(model.parameters()).device
        self.dtype = resolve_dtype(recipe.dtype, self.device)
        self.weights = FlatWeights(model)
        masters = self.weights.masters
        self.optimizer = make_adamw(
            [masters[key] for key in masters if key == "decay"], [masters[key] for key in masters if key == "plain"],
            recipe.betas, recipe.weight_decay)
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.loss_scale = START_SCALE if self.dtype == "fp16" else 1.0
        self.good_steps = 0

    def counters(self) -> dict[str, int | float | str]:
        r"""The numbers of the run, as plain JSON data."""
        names = ("step", "tokens", "seconds", "dtype", "loss_scale", "good_steps")
        return {name: getattr(self, name) for name in names}

    def tensors(self) -> dict[str, Tensor]:
        r"""AdamW's memory: both averages and the number of its steps, by decay group."""
        return {
            f"{key}.{name}": value.detach().cpu().clone()
            for key, master in self.weights.masters.items()
            for name, value in self.optimizer.state[master].items()
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        r"""Put AdamW's memory back.

        Args:
            tensors: as `tensors` gave them; of a run that has not taken a step, nothing.
        Raises:
            ValueError: if a tensor is missing, unknown, or of another shape or dtype than this model needs.
        """
        expected = {}
        for key, master in self.weights.masters.items():
            expected |= {f"{key}.exp_avg": master.shape, f"{key}.exp_avg_sq": master.shape, f"{key}.step": ()}
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items() if tensor.dtype == torch.float32}
        if tensors and (found != {name: tuple(shape) for name, shape in expected.items()} or len(found) < len(tensors)):
            raise ValueError(f"the optimizer's memory does not fit this model: expected float32 {expected}, got "
                             f"{ {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()} }")
        for key, master in self.weights.masters.items():
            own = {name.removeprefix(f"{key}."): t for name, t in tensors.items() if name.startswith(f"{key}.")}
            self.optimizer.state[master] = {name: tensor.to(self.device).clone() for name, tensor in own.items()}
