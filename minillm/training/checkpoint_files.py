r"""Files that are either whole or refused: written so that a crash leaves the old ones, read only if they are what was
written.

A checkpoint is a folder with one `checkpoint.json` and the tensor files that it names, together with their SHA-256. New
tensor files get new names (their own hashes); then the new `checkpoint.json` takes the old one's place in one
indivisible step; then files that it does not name are removed. Whenever the power fails, the folder holds one whole
checkpoint: the old or the new.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

INDEX = "checkpoint.json"
FORMAT, VERSION = "minillm checkpoint", 2
SHARDS = "shards"  # the part of which each of several processes has written its own files, in a folder


def write_checkpoint(directory: Path, contents: Mapping[str, Any], parts: Mapping[str, Mapping[str, Tensor]]) -> None:
    r"""Write a checkpoint, in place of the one that may be there.

    Args:
        directory: made if it does not exist.
        contents: plain JSON data.
        parts: for each tensor file its tensors by name, e.g. {"model": {...}}; on any device, contiguous or not.
    Lesson: 08.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files = {}
    for part, tensors in parts.items():
        data = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
        digest = hashlib.sha256(data).hexdigest()
        files[part] = {"name": f"{part}-{digest[:12]}.safetensors", "sha256": digest}
        _write(directory / files[part]["name"], data)
    write_index(directory, contents, files)


def write_index(directory: Path, contents: Mapping[str, Any], files: Mapping[str, Mapping[str, str]]) -> None:
    r"""Switch to a checkpoint whose tensor files are there already, and remove those of others.

    Args:
        directory: of the checkpoint.
        contents: plain JSON data.
        files: for each part its `name` in the directory and its `sha256`.
    Lesson: 08.
    """
    body = {"format": FORMAT, "version": VERSION, "files": files, **contents}
    index = {**body, "sha256": _digest(body)}
    _write(directory / INDEX, json.dumps(index, indent=2, ensure_ascii=False).encode())
    named = {entry["name"] for entry in files.values()}
    for pattern in ("model-*.safetensors*", "training-*.safetensors*", f"{SHARDS}-{'[0-9a-f]' * 12}"):
        for old in directory.glob(pattern):
            if old.is_dir() and old.name not in named:
                shutil.rmtree(old, ignore_errors=True)
            elif old.name not in named:
                old.unlink(missing_ok=True)


def read_index(directory: Path) -> dict[str, Any]:
    r"""Read and verify `checkpoint.json`.

    Args:
        directory: of a checkpoint.
    Returns: its contents.
    Raises:
        ValueError: if there is none, or it is not what `write_checkpoint` wrote; the message names the file.
    Lesson: 08.
    """
    path = directory / INDEX
    if not path.is_file():
        raise ValueError(f"{directory} is not a checkpoint: it has no {INDEX}; give a folder that training wrote")
    try:
        index = json.loads(path.read_bytes().decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: not JSON ({error}); use another checkpoint") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of minillm: its 'format' is not {FORMAT!r}")
    if index.get("version") != VERSION:
        raise ValueError(f"{path} has format version {index.get('version')!r}; this minillm reads version {VERSION}")
    body = {key: value for key, value in index.items() if key != "sha256"}
    if index.get("sha256") != _digest(body):
        raise ValueError(f"{path} is damaged or was edited: its contents do not match its own sha256; use another "
                         "checkpoint")
    return body


def read_tensors(directory: Path, index: Mapping[str, Any], part: str) -> dict[str, Tensor]:
    r"""Read and verify one tensor file of a checkpoint.

    Args:
        directory: of the checkpoint.
        index: from `read_index`.
        part: which file, e.g. `model`.
    Returns: its tensors by name, on the CPU.
    Raises:
        ValueError: if the file is missing, or is not the one that was written; the message names it.
    Lesson: 08.
    """
    path = named_path(directory, index, part)
    if not path.is_file():
        raise ValueError(f"{path} is missing, but {INDEX} names it; use another checkpoint")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != index["files"][part]["sha256"]:
        raise ValueError(f"{path} is damaged or not the file that was written ({len(data)} bytes, wrong sha256); use "
                         "another checkpoint")
    try:
        return load(data)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file ({error})") from error


def named_path(directory: Path, index: Mapping[str, Any], part: str) -> Path:
    r"""Where the tensors of a part are, as `checkpoint.json` says.

    Args:
        directory: of the checkpoint.
        index: from `read_index`.
        part: which part, e.g. `model`.
    Returns: a path in the directory; there may be nothing.
    Raises:
        ValueError: if no such part is named.
    Lesson: 08.
    """
    entry = index["files"].get(part) if isinstance(index.get("files"), dict) else None
    if not isinstance(entry, dict) or any(type(entry.get(key)) is not str for key in ("name", "sha256")):
        raise ValueError(f"{directory / INDEX} names no {part!r} file; use another checkpoint")
    return directory / Path(entry["name"]).name


def fit_tensors(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor], source: str) -> None:
    r"""Make sure that tensors have the names, shapes and dtypes that a model expects.

    Args:
        tensors: what was read.
        like: what is expected, by name.
        source: where it was read from, for the message.
    Raises:
        ValueError: at the first difference.
    Lesson: 08.
    """
    missing, unknown = sorted(like.keys() - tensors.keys()), sorted(tensors.keys() - like.keys())
    if missing or unknown:
        raise ValueError(f"{source} does not fit its config: missing tensors {missing[:4]}, unknown {unknown[:4]}")
    for name, wanted in like.items():
        got = tensors[name]
        if got.shape != wanted.shape or got.dtype != wanted.dtype:
            raise ValueError(f"{source} does not fit its config: {name} is {got.dtype} {tuple(got.shape)}, expected "
                             f"{wanted.dtype} {tuple(wanted.shape)}")
        if got.dtype.is_floating_point and not got.is_meta and not bool(torch.isfinite(got).all()):
            raise ValueError(f"{source}: {name} holds inf or nan")


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    if os.name == "posix":  # the rename itself lasts only once the folder is on the disk
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
