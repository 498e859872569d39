r"""A LLaMA-shaped model as a GGUF file, for llama.cpp and what is built on it, and for transformers."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minillm.layers.rope_layout import half_to_interleaved
from minillm.model.gpt import GPT
from minillm.pretrained.exporting import Exported, end_ids, make_empty
from minillm.pretrained.gguf_llama import ENDS_IN_GGUF, PARTS_IN_GGUF
from minillm.pretrained.llama import ENDS, GATED, HEADS, NORMS
from minillm.pretrained.llama_shape import Demand, cast_weight, renamed_weights, require_llama
from minillm.pretrained.tokenizer_files import CUT_BY_GPT2, gguf_tokens, spelled
from minillm.pretrained.weights import Move
from minillm.text.bpe import BPETokenizer

IN_GGUF = ENDS_IN_GGUF | {f"blk.{{i}}.{name}": f"model.layers.{{i}}.{theirs}" for name, theirs in PARTS_IN_GGUF.items()}
OURS = {move.theirs: move.ours for move in (*ENDS, *NORMS, *HEADS, *GATED)}
NAMES = tuple(Move(name, OURS[theirs]) for name, theirs in IN_GGUF.items())
# A LLaMA's GGUF has no word for these: its readers take SiLU, no biases and unscaled angles for granted.
DEMANDS = (
    Demand("ffn.activation", lambda name: name == "silu", "a LLaMA's GGUF has SiLU; use 'silu', or --to hf"),
    Demand("ffn.bias", lambda bias: not bias, "a LLaMA's GGUF has no biases; use False, or --to hf"),
    Demand("attention.qkv_bias", lambda bias: not bias, "a LLaMA's GGUF has no biases; use False, or --to hf"),
    Demand("attention.o_bias", lambda bias: not bias, "a LLaMA's GGUF has no biases; use False, or --to hf"),
    Demand("position.scaling", lambda scaling: scaling is None, "not every reader of GGUF heeds it; use --to hf"),
)
NO_MERGES = "GGUF has no word for BPE without merges: the file holds no tokenizer, a token id is a byte"
NO_END = "the file cannot say that this tokenizer has no end token: some readers (transformers, say) take id 2 for one"
KINDS = ("f16", "q8_0")
GROUP = 32  # neighbours in a row that share one scale in Q8_0


def to_gguf(model: Any, tokenizer: Any, directory: str | Path, weights: str = "f16") -> Exported:
    r"""Write a model to a GGUF file in a folder of its own.

    Matrices are float16, or 8-bit numbers of which 32 share a float16 scale; norms stay float32. The rows of q_proj and
    k_proj are put into the interleaved order that readers of this family expect (see `layers/rope_layout.py`).

    Args:
        model: a GPT whose configuration is LLaMA's; not changed.
        tokenizer: of the model; one of byte-level BPE is written whole, of others only the special ids.
        directory: must not exist, or be empty; the file in it is called model-f16.gguf or model-q8_0.gguf.
        weights: `f16` or `q8_0`.
    Returns: the file, and what a reader of it should know.
    Raises:
        TypeError: if it is no GPT.
        ValueError: if a field of the configuration is not LLaMA's, the folder is not empty, or weights is unknown.
    """
    if weights not in KINDS:
        raise ValueError(f"weights={weights!r}: a GGUF file has one of {', '.join(KINDS)}")
    require_llama(model, DEMANDS)
    import gguf

    tensors = {name: _numbers(model, name, tensor) for name, tensor in renamed_weights(model, NAMES).items()}
    directory = make_empty(directory)
    path = directory / f"model-{weights}.gguf"
    unfinished = path.with_suffix(".unfinished")
    writer = gguf.GGUFWriter(unfinished, "llama")
    _add_sizes(writer, model, weights)
    notes = _add_tokenizer(writer, tokenizer, model.config.vocab_size)
    notes += [NO_END] if end_ids(tokenizer)["eos"] is None else []
    wide = []
    for name, tensor in tensors.items():
        if tensor.ndim == 1:
            writer.add_tensor(name, tensor)
        elif weights == "q8_0" and tensor.shape[1] % GROUP == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quantize(tensor, kind), raw_dtype=kind)
        else:
            wide += [name] if weights == "q8_0" else []
            writer.add_tensor(name, tensor.astype(np.float16))
    if wide:
        notes.append(f"float16 as well: {len(wide)} matrices such as {wide[0]}, whose rows are no multiple of {GROUP}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(unfinished, path)
    return Exported((path,), tuple(notes))


def _numbers(model: GPT, name: str, tensor: Tensor) -> np.ndarray:
    heads = {"attn_q": model.config.n_heads, "attn_k": model.config.n_kv_heads}.get(name.split(".")[-2])
    if heads is not None:
        tensor = half_to_interleaved(tensor, heads)
    if tensor.ndim > 1:
        cast_weight(tensor, torch.float16, name)  # refuses what float16 cannot hold
    return cast_weight(tensor, torch.float32, name).numpy()


def _add_sizes(writer: Any, model: GPT, weights: str) -> None:
    import gguf

    c = model.config
    writer.add_file_type(getattr(gguf.LlamaFileType, f"MOSTLY_{weights.upper()}"))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(c.vocab_size)
    writer.add_context_length(c.max_seq_len)
    writer.add_embedding_length(c.d_model)
    writer.add_block_count(c.n_layers)
    writer.add_feed_forward_length(c.ffn.d_ff)
    writer.add_head_count(c.n_heads)
    writer.add_head_count_kv(c.n_kv_heads)
    writer.add_key_length(c.head_dim)
    writer.add_value_length(c.head_dim)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_rope_freq_base(c.position.base)
    writer.add_layer_norm_rms_eps(c.norm.eps)


def _add_tokenizer(writer: Any, tokenizer: Any, vocab_size: int) -> list[str]:
    spelling, notes = spelled(tokenizer)
    for name, token_id in end_ids(tokenizer).items():
        if token_id is not None:
            getattr(writer, f"add_{name}_token_id")(token_id)
    if spelling is None or not spelling.merges:
        writer.add_tokenizer_model("no_vocab")
        return list(notes or [NO_MERGES])
    tokens, types = gguf_tokens(spelling, vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(spelling.pre_name)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in spelling.merges])
    writer.add_add_bos_token(spelling.adds_bos)
    if spelling.unk_id is not None:
        writer.add_unk_token_id(spelling.unk_id)
    if spelling.chat_template is not None:
        writer.add_chat_template(spelling.chat_template)
    return [*notes, *([CUT_BY_GPT2] if isinstance(tokenizer, BPETokenizer) else [])]
