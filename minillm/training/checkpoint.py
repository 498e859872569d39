r"""Keep a run, and go on with it as if it had never stopped.

`save` writes the model, the optimizer's memory, the counters and the states of the random generators; `load` gives the
model back to use, `resume` the whole run to go on with. Nothing is pickled: a checkpoint can hold no code.

One process writes two files; several write shards (see `distributed.shards`). Both hold the same tensors by the same
names, so that either can be loaded, and gone on with by any number of processes.
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
from minillm.training import random_states
from minillm.training.distributed.ranks import Ranks
from minillm.training.recipe import Recipe
from minillm.training.state import COUNTERS, TrainingState

MODEL = "model."  # how the names of the weights begin


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
        directory: made if it does not exist. Where several processes train, all call this, and see the same folder.
        state: the run; may be in the middle of `train`, in a callback.
        tokenizer: of the model.
        generator: the source of the batches, on the CPU; its state is kept. None = nothing to keep.
        about: plain JSON data that you want to find again, such as the corpus.
    Raises:
        ValueError: if about is not JSON data, or the model is a tuned one.
    Lesson: 08.
    """
    if hasattr(state.model, "card"):
        raise ValueError(f"state.model: was tuned ({state.model.card.method}), and a checkpoint holds plain models; "
                         "keep its small part with minillm.tuning.save(model, path)")
    directory, ranks = Path(directory), state.ranks
    random = random_states.collect(state.device, ranks, generator)
    contents = {
        "config": state.model.config.to_dict(), "tokenizer": tokenizer.to_dict(), "recipe": state.recipe.to_dict(),
        "run": state.counters(), "about": dict(about or {}),
        "random": {"kinds": sorted(name.split(".")[1] for name in random), "world_size": ranks.world_size},
    }
    tensors = state.tensors()
    try:
        if ranks.parallel is not None:
            from minillm.training.distributed.shards import write_shards  # a second to import

            write_shards(directory, contents, tensors | random, ranks)
        else:
            model = {name.removeprefix(MODEL): t for name, t in tensors.items() if name.startswith(MODEL)}
            memory = {name: t for name, t in tensors.items() if not name.startswith(MODEL)}
            files.write_checkpoint(directory, contents, {"model": model, "training": memory | random})
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
    model, tokenizer = _fresh_model(directory, index)
    weights = {MODEL + name: parameter.detach() for name, parameter in model.named_parameters()}
    _read_into(weights, directory, index, Ranks())
    return model.to(device).eval(), tokenizer, {**index["about"], "run": index["run"]}


def resume(
    directory: str | Path,
    device: str | torch.device = "cpu",
    *,
    generator: torch.Generator | None = None,
    ranks: Ranks | None = None,
) -> tuple[TrainingState, Tokenizer, dict[str, Any]]:
    r"""Read a run to go on with it: `train(state.model, batches, state=state, ...)`.

    torch's global random state, and that of `generator`, are set to what they were: the same batches follow as would
    have followed then, and the weights come out equal to the last bit. Another number of processes than wrote the
    checkpoint may go on with it: then sums are rounded differently, and dropout begins anew.

    Args:
        directory: of a checkpoint.
        device: where to train.
        generator: the source of the batches, on the CPU; changed in place. None = the batches have none.
        ranks: the processes that go on with it, all of which call this; by default this one alone.
    Returns: the run, the tokenizer, and `about`.
    Raises:
        ValueError: as `load`.
    Lesson: 08.
    """
    directory = Path(directory)
    index = _read_index(directory)
    model, tokenizer = _fresh_model(directory, index)
    run = index["run"]
    if any(type(run.get(name)) is not kind for name, kind in COUNTERS.items()):
        raise ValueError(f"{directory / files.INDEX}: 'run' is {run}, expected {sorted(COUNTERS)}")
    try:
        recipe = Recipe.from_dict({**index["recipe"], "dtype": run["dtype"]})
        state = TrainingState(model.to(device), recipe, ranks)
        random = random_states.wanted(index["random"], state.device, state.ranks, generator)
    except ValueError as error:
        raise ValueError(f"{directory}: {error}") from error
    _read_into(state.tensors() | random, directory, index, state.ranks)
    for name in COUNTERS:
        setattr(state, name, run[name])
    try:
        random_states.restore(random, index["random"], state.device, state.ranks, generator)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{directory}: the states of the random generators do not fit ({error})") from error
    return state, tokenizer, index["about"]


def _read_index(directory: Path) -> dict[str, Any]:
    index = files.read_index(directory)
    for key in ("config", "tokenizer", "recipe", "run", "about", "random"):
        if not isinstance(index.get(key), dict):
            raise ValueError(f"{directory / files.INDEX}: {key!r} is missing")
    return index


def _fresh_model(directory: Path, index: dict[str, Any]) -> tuple[GPT, Tokenizer]:
    try:
        config = ModelConfig.from_dict(index["config"])
        tokenizer = tokenizers.from_dict(index["tokenizer"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{directory / files.INDEX}: {error}") from error
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(f"{directory / files.INDEX}: the tokenizer has {tokenizer.vocab_size} tokens, the model only "
                         f"{config.vocab_size}")
    with torch.random.fork_rng(devices=[]):  # the fresh weights that are written over must not cost random numbers
        return GPT(config), tokenizer


def _read_into(wanted: Mapping[str, Tensor], directory: Path, index: Mapping[str, Any], ranks: Ranks) -> None:
    r"""Fill tensors with what a checkpoint holds by their names; it must hold just these, chance of others apart."""
    if isinstance(index["files"], dict) and files.SHARDS in index["files"]:
        from minillm.training.distributed.shards import read_shards

        read_shards(directory, index, wanted, ranks)
        return
    weights = {name.removeprefix(MODEL): tensor for name, tensor in wanted.items() if name.startswith(MODEL)}
    others = {name: tensor for name, tensor in wanted.items() if not name.startswith(MODEL)}
    for part, into in (("model", weights), ("training", others)):
        if into:
            tensors = files.read_tensors(directory, index, part)
            tensors = {n: t for n, t in tensors.items() if n in into or not n.startswith(random_states.RANDOM)}
            files.fit_tensors(tensors, into, str(files.named_path(directory, index, part)))
            for name, tensor in into.items():
                _copy(tensors[name], tensor)


def _copy(whole: Tensor, into: Tensor) -> None:
    if hasattr(into, "placements"):  # a DTensor takes its rows
        from torch.distributed.tensor import distribute_tensor

        whole = distribute_tensor(whole.to(into.device), into.device_mesh, into.placements)
    into.copy_(whole)
