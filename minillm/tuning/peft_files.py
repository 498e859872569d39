r"""LoRA in the files of Hugging Face's peft: a folder with adapter_config.json and adapter_model.safetensors.

    base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight      blocks.3.attn.q_proj.adapters.NAME.lora_a
    base_model.model.model.layers.3.mlp.up_proj.lora_B.weight           blocks.3.ffn.up_proj.adapters.NAME.lora_b

Two rules of names do for everything that is built like LLaMA: self_attn is our attn, mlp our ffn. The factors have the
same orientation in both. What else a configuration may hold either changes nothing once trained, or is refused.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minillm.config import AttentionOptions, Glu, Rope
from minillm.tuning.card import Card, small_tensors
from minillm.tuning.dora import dora
from minillm.tuning.files import fill_small
from minillm.tuning.lora_linear import lora_layers
from minillm.tuning.lora_model import lora, target_layers

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MOST_JSON = 2**20  # bytes
PARTS = {"self_attn": "attn", "mlp": "ffn"}
KINDS = {"lora_A.weight": "lora_a", "lora_B.weight": "lora_b", "lora_magnitude_vector": "magnitude"}
THEIR_NAME = re.compile(r"base_model\.model\.(?:model\.)?layers\.(\d+)\.(self_attn|mlp)\.(\w+)\."
                        r"(lora_A\.weight|lora_B\.weight|lora_magnitude_vector)(?:\.weight)?")  # fmt: skip
OUR_PATH = re.compile(r"blocks\.(\d+)\.(attn|ffn)\.((?:q|k|v|o|gate|up|down)_proj)")
READ = ("peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "init_lora_weights", "bias")
SAYS_NOTHING = (  # of the trained adapter: where it comes from, and what it began with
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "megatron_config", "megatron_core",
    "qalora_group_size", "runtime_config", "eva_config", "ensure_weight_tying",
)  # fmt: skip
BESIDE_THE_BASE = (True, False, "gaussian", "orthogonal", "eva")  # beginnings that leave the base as it is


def save_peft(model: nn.Module, directory: str | Path, name: str | None = None) -> None:
    r"""Write one adapter so that `PeftModel.from_pretrained(base, directory)` reads it.

    Args:
        model: tuned by `lora`, `dora` or `qlora`, built like LLaMA; not changed.
        directory: must not exist, or be empty.
        name: of the adapter; None = the last one that was made.
    Raises:
        ValueError: if the model is none of these, or something is in the folder.
    Lesson: 13.
    """
    step = _step_of(model, name)
    name, tensors = step.settings["name"], {}
    adapters = {path: layer.adapters[name] for path, layer in lora_layers(model).items() if name in layer.adapters}
    for path, adapter in adapters.items():
        for theirs, ours in KINDS.items():
            if hasattr(adapter, ours):
                tensor = getattr(adapter, ours).detach().float().cpu().contiguous().clone()
                tensors[f"base_model.model.{_their_path(path)}.{theirs}"] = tensor
    given = step.settings
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": None, "inference_mode": True,
        "r": given["rank"], "lora_alpha": given["alpha"], "lora_dropout": given["dropout"], "bias": "none",
        "use_rslora": given["rank_stabilized"], "use_dora": step.method == "dora", "fan_in_fan_out": False,
        "target_modules": [each if "." not in each else _their_path(each) for each in _targets(model, adapters)],
    }
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"directory={str(directory)!r} is not empty; give a folder that is, or that does not exist")
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    (directory / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_peft(base: nn.Module, directory: str | Path, name: str = "default") -> nn.Module:
    r"""The model with an adapter that peft, or `save_peft`, wrote.

    Args:
        base: built like LLaMA: what `pretrained` makes of the model that the adapter was trained for; not changed.
        directory: with adapter_config.json and adapter_model.safetensors.
        name: what to call the adapter here.
    Returns: a tuned model; DoRA if the adapter is one.
    Raises:
        ValueError: if a file is missing or damaged, an option cannot be honoured, or the adapter does not fit the base.
    Source: the documentation of peft, "PEFT checkpoint format".
    Lesson: 13.
    """
    directory = Path(directory)
    _require_like_llama(base)
    config, tensors = _read_config(directory / CONFIG), _read_weights(directory / WEIGHTS)
    paths = {path for path, _ in tensors}
    try:
        tuned = (dora if config["use_dora"] else lora)(
            base, config["r"], config["lora_alpha"], _targets(base, paths), config["lora_dropout"],
            config["use_rslora"], name)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{directory}: does not fit this model ({error})") from error
    ours = {f"{path}.adapters.{name}.{kind}": tensor for (path, kind), tensor in tensors.items()}
    fill_small(tuned, small_tensors(tuned) | ours, str(directory / WEIGHTS))
    wanted = {each for each in tuned.small_names if f".adapters.{name}." in each}
    if missing := sorted(wanted - set(ours)):
        raise ValueError(f"{directory / WEIGHTS}: does not fit {CONFIG}: missing {missing[:3]}")
    return tuned


def _step_of(model: nn.Module, name: str | None) -> Card:
    small_tensors(model)  # refuses what is not tuned
    steps = model.card.steps()
    for step in steps:
        if step.method not in ("lora", "dora", "qlora"):
            raise ValueError(f"model: is tuned by {step.method}, too; a folder of peft holds LoRA alone here; use "
                             "minillm.tuning.save")
    _require_like_llama(model)
    known = [step.settings["name"] for step in steps]
    if name is not None and name not in known:
        raise ValueError(f"name={name!r}: the model has the adapters {known}; use one of them")
    return steps[-1 if name is None else known.index(name)]


def _require_like_llama(model: nn.Module) -> None:
    config = getattr(model, "config", None)
    for field, kind in {"position": Rope, "ffn": Glu, "attention": AttentionOptions}.items():
        value = getattr(config, field, None)
        if not isinstance(value, kind):
            raise ValueError(f"model.config.{field}={value!r}: only what is built like LLaMA ({kind.__name__}) has "
                             "names in peft's files here; use minillm.tuning.save and load")


def _their_path(ours: str) -> str:
    found = OUR_PATH.fullmatch(ours)
    if found is None:
        raise ValueError(f"model: {ours} has no name in LLaMA; adapt the matrices of attention and FFN alone")
    part = next(theirs for theirs, our_part in PARTS.items() if our_part == found[2])
    return f"model.layers.{found[1]}.{part}.{found[3]}"


def _targets(model: nn.Module, paths: Iterable[str]) -> list[str]:
    r"""Last names if they mean just these layers, else the whole names."""
    paths = sorted(paths)
    last = sorted({path.rpartition(".")[2] for path in paths})
    return last if sorted(target_layers(model, last)) == paths else paths


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file() or path.stat().st_size > MOST_JSON:
        raise ValueError(f"{path}: no such file, or none of at most {MOST_JSON} bytes; peft writes one beside the "
                         "weights")
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no JSON ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: a JSON object belongs there, it holds a {type(config).__name__}")
    config = {"lora_dropout": 0.0, "use_rslora": False, "use_dora": False, "init_lora_weights": True, "bias": "none",
              **config}
    for option, good in {"peft_type": ("LORA",), "bias": ("none",), "init_lora_weights": BESIDE_THE_BASE,
                         "use_rslora": (True, False), "use_dora": (True, False)}.items():
        if config.get(option) not in good:
            raise ValueError(f"{path}: {option}={config.get(option)!r}: cannot be honoured; use an adapter with "
                             f"{' or '.join(map(repr, good))}")
    for option, value in config.items():
        if option not in READ + SAYS_NOTHING and value:
            raise ValueError(f"{path}: {option}={value!r}: is not known here, and may mean something; use an adapter "
                             "without it")
    for option, kinds in {"r": (int,), "lora_alpha": (int, float), "lora_dropout": (int, float)}.items():
        if type(config.get(option)) not in kinds:
            raise ValueError(f"{path}: {option}={config.get(option)!r}: a number belongs there")
    return config


def _read_weights(path: Path) -> Mapping[tuple[str, str], Tensor]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; adapters are read from safetensors alone (a pickled "
                         "adapter_model.bin is not opened: it could run anything)")
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: no safetensors, or damaged ({error})") from error
    tensors = {}
    for key, tensor in stored.items():
        found = THEIR_NAME.fullmatch(key)
        if found is None:
            raise ValueError(f"{path}: {key} is no factor of a matrix of LLaMA's blocks; use an adapter of these alone")
        tensors[f"blocks.{found[1]}.{PARTS[found[2]]}.{found[3]}", KINDS[found[4]]] = tensor
    if not tensors:
        raise ValueError(f"{path}: holds nothing; use another adapter")
    return tensors
