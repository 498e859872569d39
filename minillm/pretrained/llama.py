r"""LLaMA, and what its descendants share with it: RoPE, RMSNorm, gated FFN, grouped key/value heads."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from minillm.config import AttentionOptions, Glu, ModelConfig
from minillm.model.gpt import GPT
from minillm.pretrained.options import Options
from minillm.pretrained.parts import activation_option, norm_option
from minillm.pretrained.rope import ANY_LEN, rope_option
from minillm.pretrained.weights import Move, Plan, each_layer, shares_memory

HEADS = tuple(Move(f"model.layers.{{i}}.self_attn.{part}_proj", f"blocks.{{i}}.attn.{part}_proj") for part in "qkvo")
GATED = tuple(Move(f"model.layers.{{i}}.mlp.{part}_proj", f"blocks.{{i}}.ffn.{part}_proj")
              for part in ("gate", "up", "down"))
NORMS = (
    Move("model.layers.{i}.input_layernorm", "blocks.{i}.attn_norm"),
    Move("model.layers.{i}.post_attention_layernorm", "blocks.{i}.ffn_norm"),
)
ENDS = (Move("model.embed_tokens", "tok_emb"), Move("model.norm", "final_norm"), Move("lm_head", "lm_head"))


def llama_plan(options: Options, state: Mapping[str, Tensor]) -> Plan:
    r"""The plan for LlamaForCausalLM.

    Args:
        options: of the model.
        state: its weights.
    Returns: which model to build and how to fill it.
    Raises:
        ValueError: naming an option that can't be honoured.
    """
    bias = options["attention_bias"]
    options.require(not options.get("rope_interleaved", False), "rope_interleaved",
                    "its pairs are neighbours; bring q_proj and k_proj into the other order and use False")
    options.ignore("pretraining_tp")  # how a matrix was once cut up for training
    return llama_like(options, state, attention=AttentionOptions(qkv_bias=bias, o_bias=bias),
                      ffn=gated_ffn(options, bias=options["mlp_bias"]))


def gated_ffn(options: Options, bias: bool = False) -> Glu:
    r"""The FFN of LLaMA and its descendants.

    Args:
        options: of the model.
        bias: whether its matrices have biases.
    Returns: our type.
    Raises:
        ValueError: if the activation is unknown.
    """
    return Glu(options["intermediate_size"], activation_option(options), bias)


def llama_like(
    options: Options, state: Mapping[str, Tensor], moves: Sequence[Move] = HEADS + GATED, **choices: Any
) -> Plan:
    r"""The plan of a family that differs from LLaMA in a few choices.

    Args:
        options: of the model.
        state: its weights.
        moves: where the weights of attention and FFN go.
        choices: fields of `ModelConfig` that differ from LLaMA's, or that LLaMA's own options give.
    Returns: which model to build and how to fill it.
    Raises:
        ValueError: naming an option that can't be honoured.
    """
    width, n_heads = options["hidden_size"], options["num_attention_heads"]
    head_dim = options.get("head_dim", width // n_heads)
    options.ignore("tie_word_embeddings")  # read off the weights
    options.ignore("max_position_embeddings")  # a rotary model has no table of positions
    if "position" not in choices:
        choices["position"] = rope_option(options, head_dim)
    config = ModelConfig(**dict(
        vocab_size=options["vocab_size"], max_seq_len=ANY_LEN, d_model=width, n_layers=options["num_hidden_layers"],
        n_heads=n_heads, n_kv_heads=options.get("num_key_value_heads", n_heads), head_dim=head_dim,
        norm=norm_option(options, "rms", "rms_norm_eps"),
        tie_embeddings=shares_memory(state, "lm_head.weight", "model.embed_tokens.weight")) | choices)
    return Plan(partial(GPT, config), [*ENDS, *each_layer(config.n_layers, (*NORMS, *moves))])
