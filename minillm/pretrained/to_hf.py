r"""A LLaMA-shaped model as a folder that transformers loads, and with it vLLM and others that read such folders."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from minillm.config import Llama3Scaling, PositionInterpolation, Rope, Yarn
from minillm.pretrained.exporting import Exported, end_ids, make_empty
from minillm.pretrained.llama import ENDS, GATED, HEADS, NORMS
from minillm.pretrained.llama_shape import Demand, cast_weight, renamed_weights, require_llama
from minillm.pretrained.parts import ACTIVATION_NAMES
from minillm.pretrained.tokenizer_files import Spelling, spelled, tokenizer_config, tokenizer_json
from minillm.training.precision import DTYPES

# The first of the names that transformers has for each of our activations.
HF_ACTIVATIONS = {ours: theirs for theirs, ours in reversed(ACTIVATION_NAMES.items())}
SCALINGS = (type(None), PositionInterpolation, Yarn, Llama3Scaling)
DEMANDS = (
    Demand("ffn.activation", lambda name: name in HF_ACTIVATIONS, f"use one of {', '.join(HF_ACTIVATIONS)}"),
    Demand("position.scaling", lambda scaling: type(scaling) in SCALINGS,
           "use None, PositionInterpolation, Yarn or Llama3Scaling"),
    Demand("attention", lambda heads: heads.qkv_bias == heads.o_bias,
           "LLaMA has biases on all four matrices of attention or on none, set qkv_bias and o_bias alike"),
)


def to_hf(model: Any, tokenizer: Any, directory: str | Path, weights: str = "fp32") -> Exported:
    r"""Write a model to a folder from which `AutoModelForCausalLM.from_pretrained` makes one with the same logits.

    Args:
        model: a GPT whose configuration is LLaMA's; not changed.
        tokenizer: of the model; one of byte-level BPE is written whole, of others only the special ids.
        directory: must not exist, or be empty.
        weights: `fp32`, `fp16` or `bf16`.
    Returns: the files, and what a reader of them should know.
    Raises:
        TypeError: if it is no GPT.
        ValueError: if a field of the configuration is not LLaMA's, the folder is not empty, or weights is unknown.
    """
    if weights not in DTYPES:
        raise ValueError(f"weights={weights!r}: a Hugging Face folder has one of {', '.join(DTYPES)}")
    config = llama_config(model, tokenizer)
    config["dtype"] = config["torch_dtype"] = str(DTYPES[weights]).removeprefix("torch.")
    tensors = {name: cast_weight(tensor, DTYPES[weights], name)
               for name, tensor in renamed_weights(model, (*ENDS, *NORMS, *HEADS, *GATED)).items()}
    spelling, notes = spelled(tokenizer)
    directory = make_empty(directory)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    if isinstance(spelling, Spelling):
        _write_json(directory / "tokenizer.json", tokenizer_json(spelling))
        _write_json(directory / "tokenizer_config.json", tokenizer_config(spelling, config["max_position_embeddings"]))
    _write_json(directory / "config.json", config)  # last: without it, nobody takes the folder for a model
    return Exported(tuple(sorted(directory.iterdir())), notes)


def llama_config(model: Any, tokenizer: Any) -> dict[str, Any]:
    r"""What stands in config.json, but for the dtype.

    Args:
        model: a GPT whose configuration is LLaMA's.
        tokenizer: of the model, for the special ids.
    Returns: JSON data; what RoPE does is written as transformers 4 reads it and as transformers 5 does.
    Raises:
        TypeError: if it is no GPT.
        ValueError: naming a field that is not LLaMA's.
    """
    c = require_llama(model, DEMANDS)
    rope = rope_parameters(c.position)
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": c.vocab_size,
        "hidden_size": c.d_model, "intermediate_size": c.ffn.d_ff, "num_hidden_layers": c.n_layers,
        "num_attention_heads": c.n_heads, "num_key_value_heads": c.n_kv_heads, "head_dim": c.head_dim,
        "hidden_act": HF_ACTIVATIONS[c.ffn.activation], "max_position_embeddings": c.max_seq_len,
        "rms_norm_eps": c.norm.eps, "tie_word_embeddings": c.tie_embeddings,
        "attention_bias": c.attention.qkv_bias, "mlp_bias": c.ffn.bias, "attention_dropout": 0.0, "use_cache": True,
        "rope_theta": rope["rope_theta"],
        "rope_scaling": None if c.position.scaling is None else {k: v for k, v in rope.items() if k != "rope_theta"},
        "rope_parameters": rope,
        **{f"{name}_token_id": value for name, value in end_ids(tokenizer).items()},
    }


def rope_parameters(position: Rope) -> dict[str, Any]:
    r"""A rotation in the words of transformers; `rope.rope_option` reads it back.

    Args:
        position: with a scaling out of `SCALINGS`.
    Returns: the dict `rope_parameters` of a configuration.
    """
    scaling, given = position.scaling, {"rope_theta": position.base}
    if scaling is None:
        return {"rope_type": "default", **given}
    if isinstance(scaling, PositionInterpolation):
        return {"rope_type": "linear", "factor": scaling.factor, **given}
    given |= {"factor": scaling.factor, "original_max_position_embeddings": scaling.original_len}
    if isinstance(scaling, Llama3Scaling):
        return {"rope_type": "llama3", "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor, **given}
    if scaling.amplitude is not None:
        given["attention_factor"] = scaling.amplitude
    return {"rope_type": "yarn", "beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow,
            "truncate": scaling.truncate, **given}


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
