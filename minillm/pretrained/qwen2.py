r"""Qwen2: LLaMA with biases on queries, keys and values, and a window in some layers."""

from collections.abc import Mapping

from torch import Tensor

from minillm.config import AttentionOptions
from minillm.pretrained.llama import gated_ffn, llama_like
from minillm.pretrained.options import Options
from minillm.pretrained.parts import windows_by_layer
from minillm.pretrained.weights import Plan


def qwen2_plan(options: Options, state: Mapping[str, Tensor]) -> Plan:
    r"""The plan for Qwen2ForCausalLM.

    Args:
        options: of the model.
        state: its weights.
    Returns: which model to build and how to fill it.
    Raises:
        ValueError: naming an option that can't be honoured.
    """
    attention = AttentionOptions(qkv_bias=True, window=windows_by_layer(options))
    return llama_like(options, state, attention=attention, ffn=gated_ffn(options))
