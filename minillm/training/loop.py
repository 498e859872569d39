r"""The training loop: take a batch, see how wrong the model is, change the weights a little, again."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from minillm.model.counting import n_trainable
from minillm.training import accumulation, balancing, clipping, precision, unscaling
from minillm.training.accumulation import MicroBatch
from minillm.training.callbacks import notify
from minillm.training.compiling import compiled
from minillm.training.limits import Limits
from minillm.training.own_kernel import computed_by_kernel
from minillm.training.recipe import Recipe
from minillm.training.recompute import recomputed_blocks
from minillm.training.state import TrainingState


def train(
    model: nn.Module,
    batches: Iterable[MicroBatch],
    recipe: Recipe | None = None,
    *,
    steps: int | None = None,
    seconds: int | float | None = None,
    callbacks: Sequence[Any] = (),
    evaluate: Callable[[], Mapping[str, float]] | None = None,
    evaluate_every: int = 0,
    report_every: int = 1,
    state: TrainingState | None = None,
) -> TrainingState:
    r"""Train a model, in place, until it has had its steps or its seconds, or the batches run out.

    Where several processes train it together (`state.ranks`), each calls this with the same batches and works on its
    own rows of them; losses, gradients and the moment to stop are those of all. (The experts of a mixture are balanced
    within each process.)

    Args:
        model: token ids (B, T) -> logits (B, T, V), on the device to train on. What needs gradients in it is trained,
            and has to be float32; other parameters are neither changed nor kept in the optimizer.
        batches: pairs (token_ids, targets), each (B, T), int64, targets -100 where nothing is to be learned.
        recipe: how to train; None = `Recipe()`, or that of `state`.
        steps: steps of the whole run at most; None = no limit.
        seconds: seconds of the whole run at most, compiling and callbacks included; None = no limit.
        callbacks: see `minillm.training.callbacks`.
        evaluate: returns numbers, such as a validation loss, that are added to the callbacks' info.
        evaluate_every: steps between evaluations; 0 = never.
        report_every: steps between calls of on_step; the step that reaches a limit is always reported.
        state: a run to go on with, from an earlier call or a checkpoint; None = a new one. It is changed in place.
    Returns: the state of the run; the model in it is the one given, in evaluation mode.
    Raises:
        ValueError: if no limit is given or it is reached already, if state belongs to another model or recipe, if the
            recipe asks for what cannot be had here, or if the loss stops being a number.
    Lesson: 08.
    """
    state = _matching_state(state, model, recipe)
    limits = Limits(steps, seconds, state)
    notify(callbacks, "on_start", _start_info(state, steps, seconds))
    info: dict[str, Any] = {"step": state.step}
    model.train()
    try:
        with (state.weights.attached(precision.DTYPES[state.dtype]),
              recomputed_blocks(model, state.recipe.recompute), computed_by_kernel(state)):
            for measured in _steps(state, batches, limits):
                due = evaluate_every and state.step % evaluate_every == 0
                numbers = _evaluate(model, evaluate) if due else {}
                if due or state.step % report_every == 0 or limits.reached():
                    info = _step_info(state, limits, measured) | numbers
                    notify(callbacks, "on_step", info)
    finally:
        model.eval()
    notify(callbacks, "on_end", info)
    return state


def _steps(
    state: TrainingState, batches: Iterable[MicroBatch], limits: Limits
) -> Iterator[dict[str, Tensor | float]]:
    mean_loss = partial(accumulation.batch_loss, state.weights.forward)
    if state.recipe.balance and balancing.has_experts(state.model):
        mean_loss = partial(balancing.balanced_loss, state.weights.forward, coefficient=state.recipe.balance)
    if state.recipe.compile:
        mean_loss = compiled(mean_loss, state.device)
    batches = iter(batches)
    while not limits.reached():
        micro_batches = list(islice(batches, state.recipe.accumulation))
        if not micro_batches:
            return
        learning_rate = state.recipe.lr_at(state.step, limits.expected_steps())
        loss, grad_norm = training_step(state, mean_loss, micro_batches, learning_rate)
        limits.tick()
        yield {"loss": loss, "learning_rate": learning_rate, "grad_norm": grad_norm}


def training_step(
    state: TrainingState,
    mean_loss: Callable[[Tensor, Tensor], Tensor],
    micro_batches: Sequence[MicroBatch],
    learning_rate: float,
) -> tuple[Tensor, Tensor]:
    r"""One change of the weights: gradients of all micro-batches, clipped, into AdamW.

    Args:
        state: the run, its weights attached; changed in place.
        mean_loss: (token_ids, targets) -> scalar.
        micro_batches: what makes one step, of all processes.
        learning_rate: for this step.
    Returns: the mean loss over the targets of all processes, and the length of the gradient before clipping; scalars.
    Raises:
        ValueError: if no target counts, or the processes cannot share the rows of a batch.
    Lesson: 08.
    """
    weights, optimizer, ranks = state.weights, state.optimizer, state.ranks
    own = [ranks.rows(batch) for batch in micro_batches]
    n_targets = sum(accumulation.count_targets(targets) for _, targets in micro_batches)
    # Each process has the mean over its own targets, which is worth as much as they are; and the gradients of all
    # processes will be averaged, each for the same 1 / world_size.
    share = ranks.share(own, n_targets)
    scale = state.loss_scale * share * ranks.world_size

    def on_device(token_ids: Tensor, targets: Tensor) -> Tensor:  # only now: to count targets there would make it wait
        return mean_loss(token_ids.to(state.device), targets.to(state.device))

    weights.zero_gradients()
    loss, _ = accumulation.accumulate(on_device, own, scale, weights.collect_gradients)
    loss = ranks.total(loss * share)
    grads = weights.gradients()
    overflow = False
    if state.dtype == "fp16":
        clipped, norm, overflow = unscaling.unscale_and_clip(grads, state.loss_scale, state.recipe.max_norm)
        state.loss_scale, state.good_steps = precision.loss_scale_step(state.loss_scale, state.good_steps, overflow)
    else:
        clipped, norm = clipping.clip_by_norm(grads, state.recipe.max_norm)
    if not overflow:
        weights.set_gradients(clipped)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
        weights.publish()
    state.step += 1
    state.tokens += n_targets
    return loss, norm


def _matching_state(state: TrainingState | None, model: nn.Module, recipe: Recipe | None) -> TrainingState:
    if state is None:
        return TrainingState(model, recipe or Recipe())
    if state.model is not model:
        raise ValueError("state belongs to another model; call train(state.model, ..., state=state)")
    if recipe not in (None, state.recipe):
        raise ValueError(f"recipe={recipe}: the run in state has {state.recipe}; leave recipe out")
    return state


def _evaluate(model: nn.Module, evaluate: Callable[[], Mapping[str, float]] | None) -> dict[str, float]:
    if evaluate is None:
        raise ValueError("evaluate=None: give a function that returns numbers, or evaluate_every=0")
    model.eval()
    with torch.no_grad():
        numbers = dict(evaluate())
    model.train()
    return numbers


def _start_info(state: TrainingState, steps: int | None, seconds: int | float | None) -> dict[str, Any]:
    return {"n_params": sum(parameter.numel() for parameter in state.model.parameters()),
            "n_trained": n_trainable(state.model), "dtype": state.dtype, "device": str(state.device),
            "step": state.step, "max_steps": steps, "max_seconds": seconds, "seconds": state.seconds}


def _step_info(state: TrainingState, limits: Limits, measured: Mapping[str, Tensor | float]) -> dict[str, Any]:
    info = {name: float(value) for name, value in measured.items()}  # on a GPU this waits for the step to be done
    if not math.isfinite(info["loss"]):
        raise ValueError(f"the loss is {info['loss']} after step {state.step}: use a smaller learning_rate (now "
                         f"{state.recipe.learning_rate}), more warmup_steps, or dtype='fp32'")
    return {"step": state.step, "progress": limits.progress(), "seconds": state.seconds, "tokens": state.tokens,
            "tokens_per_s": state.tokens / max(state.seconds, 1e-9), **info}
