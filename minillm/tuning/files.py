r"""Keep the small part of a tuned model, and put it on its base again.

One .safetensors file: the tensors that are not the base's, and in its metadata the card, that is, which functions of
`methods.METHODS` to call with which settings. Nothing in it is run: a method is looked up by its name, and its settings
are plain JSON data.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from minillm.tuning.card import small_tensors
from minillm.tuning.methods import METHODS

FORMAT, VERSION = "minillm tuning", "1"
BASE = "base."  # begins the names of what is the base's, kept only to know it again
SAME = 0.02  # so far may a number of the base lie from the one kept: it may be in 16 bits


def save_tuned(model: nn.Module, path: str | Path) -> None:
    r"""Write what a tuned model has beside its base to a file; one that this function wrote is replaced.

    Call it before or after training: in the middle of a run in 16 bits the model itself holds rounded numbers.

    Args:
        model: from a method of this package.
        path: ends in .safetensors; its folder is made if it is not there.
    Raises:
        ValueError: if the model is not tuned or holds inf or nan, or the path is another kind of file.
    Lesson: 13.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path={str(path)!r}: use a name that ends in .safetensors")
    tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in small_tensors(model).items()}
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"model: {name} holds inf or nan; train again with a smaller learning_rate")
    if path.exists():
        _read(path)  # which refuses what is not ours
    steps = [{"method": step.method, "settings": step.settings} for step in model.card.steps()]
    metadata = {"format": FORMAT, "version": VERSION, "card": json.dumps(steps)}
    data = save(tensors | {BASE + name: kept for name, kept in _marks(model).items()}, metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def load_tuned(base: nn.Module, path: str | Path) -> nn.Module:
    r"""A tuned model from its base and a file.

    Args:
        base: what was tuned, or the same in other number formats; not changed, its numbers are shared.
        path: a file that `save_tuned` wrote.
    Returns: the tuned model, on the base's device; it can be trained on.
    Raises:
        ValueError: if the file is missing, damaged or of another kind, or belongs to another base; it says which.
    Lesson: 13.
    """
    path = Path(path)
    steps, tensors = _read(path)
    kept = {name.removeprefix(BASE): tensors.pop(name) for name in list(tensors) if name.startswith(BASE)}
    tuned = base
    with torch.random.fork_rng(devices=[]):  # fresh numbers that are written over must not cost random ones
        for step in steps:
            try:
                tuned = METHODS[step["method"]](tuned, **step["settings"])
            except (ValueError, TypeError, RuntimeError, MemoryError) as error:
                raise ValueError(f"{path}: {step['method']} with {step['settings']} cannot be done to this model "
                                 f"({error}); give the base that it was made for") from error
    _require_base(base, kept, path)
    fill_small(tuned, tensors, str(path))
    return tuned


def fill_small(tuned: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    r"""Put numbers into the small part of a tuned model.

    Args:
        tuned: changed in place.
        tensors: by the names of `card.small_tensors`; exactly these, in their shapes, of any floating type.
        source: where they come from, for errors.
    Raises:
        ValueError: at the first that is missing, too many, of another shape, or no finite numbers.
    Lesson: 13.
    """
    into = small_tensors(tuned)
    missing, unknown = sorted(into.keys() - tensors.keys()), sorted(tensors.keys() - into.keys())
    if missing or unknown:
        raise ValueError(f"{source}: does not fit what its card says: missing {missing[:3]}, unknown {unknown[:3]}")
    for name, tensor in tensors.items():
        if tensor.shape != into[name].shape or not tensor.is_floating_point():
            raise ValueError(f"{source}: {name} is {tensor.dtype} {tuple(tensor.shape)}, and this model wants "
                             f"{into[name].dtype} {tuple(into[name].shape)}; give the base that it was made for")
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{source}: {name} holds inf or nan; use another file")
    for name, tensor in tensors.items():
        into[name].copy_(tensor)


def _marks(model: nn.Module) -> dict[str, Tensor]:
    r"""A few numbers by which a base is known again: models of one shape differ in them, number formats hardly."""
    weight = getattr(getattr(model, "final_norm", None), "weight", None)
    return {} if weight is None or weight.requires_grad and hasattr(model, "card") else {
        "final_norm.weight": weight.detach().float().cpu().clone()}


def _require_base(base: nn.Module, kept: Mapping[str, Tensor], path: Path) -> None:
    found = _marks(base)
    for name, want in kept.items():
        got = found.get(name)
        if got is None or got.shape != want.shape or not torch.allclose(got, want, rtol=SAME, atol=SAME * 1e-2):
            raise ValueError(f"{path}: was made for another base, whose {name} has other numbers; give that one")


def _read(path: Path) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    if not path.is_file():
        raise ValueError(f"path={str(path)!r}: no such file; give one that minillm.tuning.save wrote")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"{path}: is no file of minillm.tuning.save, but other safetensors; choose another "
                                 "(the folder that peft writes is read by load_peft)")
            if metadata.get("version") != VERSION:
                raise ValueError(f"{path}: has format version {metadata.get('version')!r}; this minillm reads "
                                 f"version {VERSION}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: is no safetensors file, or damaged ({error}); choose another") from error
    try:
        steps = json.loads(metadata.get("card", ""))
        good = bool(steps) and all(isinstance(step["settings"], dict) and step["method"] in METHODS for step in steps)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path}: its card cannot be read ({error}); choose another file") from error
    if not good:
        raise ValueError(f"{path}: its card names a method that is none of {sorted(METHODS)}, or none at all; it may "
                         "be of a newer minillm")
    return steps, tensors
