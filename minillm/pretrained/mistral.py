r"""Mistral: LLaMA with a sliding window."""

from collections.abc import Mapping

from torch import Tensor

from minillm.config import AttentionOptions
from minillm.pretrained.llama import gated_ffn, llama_like
from minillm.pretrained.options import Options
from minillm.pretrained.parts import window_option
from minillm.pretrained.weights import Plan


def mistral_plan(options: Options, state: Mapping[str, Tensor]) -> Plan:
    r"""The plan for MistralForCausalLM.

    Args:
        options: of the model.
        state: its weights.
    Returns: which model to build and how to fill it.
    Raises:
        ValueError: naming an option that can't be honoured.
    """
    attention = AttentionOptions(window=window_option(options))
    return llama_like(options, state, attention=attention, ffn=gated_ffn(options))
