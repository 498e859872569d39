r"""Directories as transformers writes them: config.json, and safetensors in one file or several.

Only safetensors are read. A pickled checkpoint (pytorch_model.bin) is a program that runs when it is opened.
"""

import json
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from minillm.pretrained.convert import FAMILIES
from minillm.pretrained.file_state import FileState, StoredTensor
from minillm.pretrained.options import Options

MOST_JSON = 2**26  # bytes
# In their files the weights are called and cut otherwise than in the model that transformers makes of them.
OTHERWISE = frozenset(("bert", "mixtral"))
RENAMED = {"embed_out.weight": "lm_head.weight"}
SHARED = {"encoder.embed_tokens.weight": "shared.weight", "decoder.embed_tokens.weight": "shared.weight"}
EMBEDDINGS = (
    "model.embed_tokens.weight", "transformer.wte.weight", "transformer.word_embeddings.weight",
    "gpt_neox.embed_in.weight", "model.decoder.embed_tokens.weight", "shared.weight",
)  # fmt: skip


def read_hf_directory(directory: str | Path) -> tuple[Options, FileState]:
    r"""What a converter needs to know of a model in such a directory.

    Args:
        directory: with config.json and model.safetensors, or model.safetensors.index.json and the files it names.
    Returns: its options, and its weights.
    Raises:
        ValueError: if a file is missing, damaged, or of a family that has no converter.
    """
    directory = Path(directory)
    path = directory / "config.json"
    given = read_json(path)
    family = given.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise ValueError(f"{path}: model_type={family!r}: use one of {', '.join(sorted(set(FAMILIES) - OTHERWISE))}")
    if family in OTHERWISE:
        raise ValueError(f"{path}: model_type={family!r}: load it with transformers and give it to from_hf")
    defaults = config_defaults()[family]
    options = Options(_complete(given, defaults, path), defaults, str(path))
    stored = _stored(directory)
    aliases = {name: other for name, other in SHARED.items() if other in stored and name not in stored}
    tied = given.get("tie_word_embeddings", defaults.get("tie_word_embeddings", True))
    if tied and "lm_head.weight" not in stored:
        aliases |= {"lm_head.weight": name for name in EMBEDDINGS if name in stored}  # noqa: B035 (one of them is)
    return options, FileState(stored, aliases)


def read_json(path: Path) -> dict[str, Any]:
    r"""Read a JSON object.

    Args:
        path: of the file.
    Returns: the object.
    Raises:
        ValueError: if there is none.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; a model's directory has config.json and *.safetensors")
    if path.stat().st_size > MOST_JSON:
        raise ValueError(f"{path}: {path.stat().st_size} bytes; nothing of at most {MOST_JSON} bytes is that long")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: a JSON object belongs there, it holds a {type(found).__name__}")
    return found


@cache
def config_defaults() -> dict[str, dict[str, Any]]:
    r"""What each family's options are where config.json does not say; None where they follow from others."""
    return json.loads(Path(__file__).with_name("config_defaults.json").read_text(encoding="utf-8"))


def _complete(given: Mapping[str, Any], defaults: Mapping[str, Any], path: Path) -> dict[str, Any]:
    values = {name: value for name, value in defaults.items() if value is not None} | dict(given)
    scaling, rope = values.pop("rope_scaling", None), given.get("rope_parameters")
    theta, share = values.pop("rope_theta", None), values.get("partial_rotary_factor")
    if rope is None and "rope_parameters" in defaults:  # as it was written before transformers 5
        if not isinstance(scaling, dict | None):
            raise ValueError(f"{path}: rope_scaling={scaling!r}: an object or null belongs there")
        rope = dict(defaults["rope_parameters"] or {}) | dict(scaling or {})
        rope |= {} if theta is None else {"rope_theta": theta}
        if share is not None:
            rope["partial_rotary_factor"] = values.pop("partial_rotary_factor")
        if scaling and "rope_type" not in scaling and "type" in scaling:
            rope["rope_type"] = scaling["type"]
    return values if rope is None else values | {"rope_parameters": rope}


def _stored(directory: Path) -> dict[str, StoredTensor]:
    index = directory / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise ValueError(f"{index}: weight_map: an object from tensors to file names belongs there")
        names = sorted(set(weight_map.values()))
    stored: dict[str, StoredTensor] = {}
    for name in names:
        path = directory / name
        if Path(name).name != name or not path.is_file():
            raise ValueError(f"{path}: no such file; weights lie beside config.json as safetensors (a pickled "
                             "pytorch_model.bin is not opened: it could run anything)")
        try:
            with safe_open(path, "pt") as file:
                for key in file.keys():  # noqa: SIM118 (no mapping)
                    if not key.endswith(".rotary_emb.inv_freq"):  # old files keep what follows from the options
                        shape = tuple(file.get_slice(key).get_shape())
                        stored[RENAMED.get(key, key)] = StoredTensor(shape, partial(_read, path, key))
        except SafetensorError as error:
            raise ValueError(f"{path}: no safetensors, or damaged ({error})") from error
    return stored


def _read(path: Path, key: str) -> Tensor:
    with safe_open(path, "pt") as file:
        tensor = file.get_tensor(key)
    if not tensor.is_floating_point() or tensor.dtype.itemsize < 2:
        raise ValueError(f"{path}: {key} is {tensor.dtype}; use weights of one floating type, not quantized")
    return tensor.to(torch.float32) if tensor.dtype == torch.float64 else tensor
