r"""Qwen3: LLaMA with a norm on each head's queries and keys, and a window in some layers."""

from collections.abc import Mapping

from torch import Tensor

from minillm.config import AttentionOptions
from minillm.pretrained.llama import GATED, HEADS, gated_ffn, llama_like
from minillm.pretrained.options import Options
from minillm.pretrained.parts import windows_by_layer
from minillm.pretrained.weights import Move, Plan

HEAD_NORMS = tuple(Move(f"model.layers.{{i}}.self_attn.{part}_norm", f"blocks.{{i}}.attn.{part}_norm") for part in "qk")


def qwen3_plan(options: Options, state: Mapping[str, Tensor]) -> Plan:
    r"""The plan for Qwen3ForCausalLM.

    Args:
        options: of the model.
        state: its weights.
    Returns: which model to build and how to fill it.
    Raises:
        ValueError: naming an option that can't be honoured.
    """
    bias = options["attention_bias"]
    attention = AttentionOptions(qkv_bias=bias, o_bias=bias, qk_norm=True, window=windows_by_layer(options))
    return llama_like(options, state, HEADS + GATED + HEAD_NORMS, attention=attention, ffn=gated_ffn(options))
