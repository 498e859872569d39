r"""Keep a run, and go on with it as if it had never stopped.

`save` writes the model, the optimizer's memory, the counters and the states of the random generators; `load` gives the
model back to use, `resume` the whole run to go on with. Nothing is pickled: a checkpoint can hold no code.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minillm.config import ModelConfig
from minillm.model.gpt import GPT
from minillm.text import tokenizers
from minillm.text.tokenizers import Tokenizer
from minillm.training import checkpoint_files as files
from minillm.training.recipe import Recipe
from minillm.training.state import TrainingState

RUN_COUNTERS = {"step": int, "tokens": int, "seconds": float, "dtype": str, "loss_scale": float, "good_steps": int}


def save(
    directory: str | Path,
    state: TrainingState,
    tokenizer: Tokenizer,
    *,
    generator: torch.Generator | None = None,
    about: Mapping[str, Any] | None = None,
) -> None:
    r"""Write a run to a folder; the checkpoint that was there is replaced only once the new one is whole.

    Args:
        directory: made if it does not exist.
        state: the run; may be in the middle of `train`, in a callback.
        tokenizer: of the model.
        generator: the source of the batches, on the CPU; its state is kept. None = nothing to keep.
        about: plain JSON data that you want to find again, such as the corpus.
    Raises:
        ValueError: if about is not JSON data.
    Lesson: 08.
    """
    contents = {
        "config": state.model.config.to_dict(), "tokenizer": tokenizer.to_dict(), "recipe": state.recipe.to_dict(),
        "run": state.counters(), "about": dict(about or {}),
    }
    random_states = {"random.torch": torch.get_rng_state()}
    if generator is not None:
        random_states["random.batches"] = generator.get_state()
    if state.device.type == "cuda":
        random_states["random.cuda"] = torch.cuda.get_rng_state(state.device)
    optimizer = {f"optimizer.{name}": tensor for name, tensor in state.tensors().items()}
    try:
        files.write_checkpoint(
            Path(directory), contents, {"model": state.weights.named_masters(), "training": optimizer | random_states})
    except TypeError as error:
        raise ValueError(f"about={about!r}: holds something that is not JSON data ({error})") from error


def load(directory: str | Path, device: str | torch.device = "cpu") -> tuple[GPT, Tokenizer, dict[str, Any]]:
    r"""Read a model to use it.

    Args:
        directory: of a checkpoint.
        device: where to put the model.
    Returns: the model in evaluation mode, float32; its tokenizer; and `about`, with `run` (the counters) beside it.
    Raises:
        ValueError: if there is no checkpoint, or it is damaged or foreign; the message names the file.
    Lesson: 08.
    """
    directory = Path(directory)
    index = _read_index(directory)
    model, tokenizer = _model(directory, index)
    return model.to(device).eval(), tokenizer, {**index["about"], "run": index["run"]}


def resume(
    directory: str | Path, device: str | torch.device = "cpu", *, generator: torch.Generator | None = None
) -> tuple[TrainingState, Tokenizer, dict[str, Any]]:
    r"""Read a run to go on with it: `train(state.model, batches, state=state, ...)`.

    torch's global random state, and that of `generator`, are set to what they were: the same batches follow as would
    have followed then, and the weights come out equal to the last bit.

    Args:
        directory: of a checkpoint.
        device: where to train.
        generator: the source of the batches, on the CPU; changed in place. None = the batches have none.
    Returns: the run, the tokenizer, and `about`.
    Raises:
        ValueError: as `load`.
    Lesson: 08.
    """
    directory = Path(directory)
    index = _read_index(directory)
    model, tokenizer = _model(directory, index)
    tensors = files.read_tensors(directory, index, "training")
    run = index["run"]
    if any(type(run.get(name)) is not kind for name, kind in RUN_COUNTERS.items()):
        raise ValueError(f"{directory / files.INDEX}: 'run' is {run}, expected {sorted(RUN_COUNTERS)}")
    try:
        state = TrainingState(model.to(device), Recipe.from_dict({**index["recipe"], "dtype": run["dtype"]}))
        prefix = "optimizer."
        state.load_tensors({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
    except ValueError as error:
        raise ValueError(f"{directory}: {error}") from error
    for name in RUN_COUNTERS:
        setattr(state, name, run[name])
    _restore_random(directory, tensors, state.device, generator)
    return state, tokenizer, index["about"]


def _read_index(directory: Path) -> dict[str, Any]:
    index = files.read_index(directory)
    for key in ("config", "tokenizer", "recipe", "run", "about"):
        if not isinstance(index.get(key), dict):
            raise ValueError(f"{directory / files.INDEX}: {key!r} is missing")
    return index


def _model(directory: Path, index: dict[str, Any]) -> tuple[GPT, Tokenizer]:
    try:
        config = ModelConfig.from_dict(index["config"])
        tokenizer = tokenizers.from_dict(index["tokenizer"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{directory / files.INDEX}: {error}") from error
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(f"{directory / files.INDEX}: the tokenizer has {tokenizer.vocab_size} tokens, the model only "
                         f"{config.vocab_size}")
    tensors = files.read_tensors(directory, index, "model")
    with torch.random.fork_rng(devices=[]):  # the fresh weights that are written over must not cost random numbers
        model = GPT(config)
    parameters = dict(model.named_parameters())
    files.fit_tensors(tensors, parameters, str(directory / index["files"]["model"]["name"]))
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
    return model, tokenizer


def _restore_random(
    directory: Path, tensors: dict[str, Tensor], device: torch.device, generator: torch.Generator | None
) -> None:
    if generator is not None and "random.batches" not in tensors:
        raise ValueError(f"{directory} was saved without the generator of its batches; resume it without one")
    try:
        torch.set_rng_state(tensors["random.torch"])
        if generator is not None:
            generator.set_state(tensors["random.batches"])
        if device.type == "cuda" and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], device)
    except (KeyError, RuntimeError, TypeError) as error:
        raise ValueError(f"{directory}: the states of the random generators do not fit ({error})") from error
