r"""LLaMA-shaped models in GGUF files: their options and weights by the names that Hugging Face gives them.

The rows of q_proj and k_proj lie in the interleaved order of RoPE (see `layers.rope_layout`) and are put back here.
"""

from functools import partial
from typing import Any

from torch import Tensor

from minillm.layers.rope_layout import interleaved_to_half
from minillm.pretrained.file_state import FileState, StoredTensor
from minillm.pretrained.gguf_file import GGUFFile
from minillm.pretrained.options import Options

ENDS_IN_GGUF = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
PARTS_IN_GGUF = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
SIZES = {
    "block_count": "num_hidden_layers", "embedding_length": "hidden_size", "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads", "context_length": "max_position_embeddings",
}  # fmt: skip
# What else a file may say of such a model, and the one value that means nothing special.
PLAIN = {
    "rope.scaling.type": "none", "expert_count": 0, "expert_used_count": 0, "attention.clamp_kqv": 0.0,
    "attention.causal": True, "use_parallel_residual": False,
}  # fmt: skip
HEARD = {*SIZES, "attention.head_count_kv", "attention.key_length", "attention.value_length", "rope.dimension_count",
         "rope.freq_base", "attention.layer_norm_rms_epsilon", "vocab_size"}


def llama_from_gguf(file: GGUFFile) -> tuple[Options, FileState]:
    r"""What a converter needs to know of a LLaMA-shaped GGUF file.

    Args:
        file: an open one.
    Returns: its options, as Hugging Face's configuration would give them, and its weights, by Hugging Face's names.
    Raises:
        ValueError: if it holds another architecture, an entry that changes the arithmetic, or a damaged number.
    """
    if (architecture := file.metadata.get("general.architecture")) != "llama":
        raise ValueError(f"{file.path}: general.architecture={architecture!r}: from GGUF we read 'llama' only; other "
                         "families come from a directory with safetensors")
    given = {key.removeprefix("llama."): value for key, value in file.metadata.items() if key.startswith("llama.")}
    for key, value in given.items():
        if key not in HEARD and (key not in PLAIN or value != PLAIN[key]):
            raise ValueError(f"{file.path}: llama.{key}={value!r}: we do not know what that changes")
    options = _options(file, given)
    n_heads, n_kv_heads = options["num_attention_heads"], options["num_key_value_heads"]
    stored = {}
    for name, info in file.infos.items():
        turned = {"attn_q": n_heads, "attn_k": n_kv_heads}.get(name.split(".")[2] if name.count(".") > 2 else "")
        read = partial(file.tensor, name) if turned is None else partial(_read_turned, file, name, turned)
        stored[_hf_name(file, name)] = StoredTensor(info.shape, read)
    tied = {} if "lm_head.weight" in stored else {"lm_head.weight": "model.embed_tokens.weight"}
    return options, FileState(stored, tied if "model.embed_tokens.weight" in stored else {})


def _read_turned(file: GGUFFile, name: str, n_heads: int) -> Tensor:
    return interleaved_to_half(file.tensor(name), n_heads)


def _hf_name(file: GGUFFile, name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    if stem in ENDS_IN_GGUF:
        return f"{ENDS_IN_GGUF[stem]}.{suffix}"
    match stem.split("."):
        case ["blk", layer, part] if part in PARTS_IN_GGUF:
            return f"model.layers.{layer}.{PARTS_IN_GGUF[part]}.{suffix}"
    raise ValueError(f"{file.path}: tensor {name!r} has no place in a LLaMA-shaped model")


def _options(file: GGUFFile, given: dict[str, Any]) -> Options:
    def whole(key: str, default: int | None = None) -> int:
        value = given.get(key, default)
        if type(value) is not int or value < 1:
            raise ValueError(f"{file.path}: llama.{key}={value!r}: a whole number above 0 belongs here")
        return value

    values: dict[str, Any] = {theirs: whole(key) for key, theirs in SIZES.items()}
    n_heads, embedding = values["num_attention_heads"], file.infos.get("token_embd.weight")
    if embedding is None:
        raise ValueError(f"{file.path}: no tensor 'token_embd.weight' in it")
    head_dim = whole("attention.key_length", values["hidden_size"] // n_heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if (value := given.get(key, head_dim)) != head_dim:
            raise ValueError(f"{file.path}: llama.{key}={value!r}: we read models that use all {head_dim} features of "
                             "a head for it")
    base, eps = (given.get(key, default) for key, default in (
        ("rope.freq_base", 10000.0), ("attention.layer_norm_rms_epsilon", None)))
    for key, value in (("rope.freq_base", base), ("attention.layer_norm_rms_epsilon", eps)):
        if type(value) is not float or not 0 < value < float("inf"):
            raise ValueError(f"{file.path}: llama.{key}={value!r}: a finite number above 0 belongs here")
    values |= dict(
        model_type="llama", vocab_size=embedding.shape[0], head_dim=head_dim,
        num_key_value_heads=whole("attention.head_count_kv", n_heads),
        rope_parameters={"rope_type": "default", "rope_theta": base}, rms_norm_eps=eps,
        hidden_act="silu", attention_bias=any(name.endswith("attn_q.bias") for name in file.infos), mlp_bias=False)
    return Options(values, {}, str(file.path))
