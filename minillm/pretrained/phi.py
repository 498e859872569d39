r"""Phi: attention and FFN side by side behind one norm, a share of each head turned, a bias on the logits."""

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from minillm.config import AttentionOptions, Ends, Mlp, ModelConfig
from minillm.model.gpt import GPT
from minillm.pretrained.options import Options
from minillm.pretrained.parts import activation_option, norm_option
from minillm.pretrained.rope import ANY_LEN, rope_option
from minillm.pretrained.weights import Move, Plan, each_layer, shares_memory

LAYER = (
    *(Move(f"model.layers.{{i}}.self_attn.{part}_proj", f"blocks.{{i}}.attn.{part}_proj") for part in "qkv"),
    Move("model.layers.{i}.self_attn.dense", "blocks.{i}.attn.o_proj"),
    Move("model.layers.{i}.mlp.fc1", "blocks.{i}.ffn.up_proj"),
    Move("model.layers.{i}.mlp.fc2", "blocks.{i}.ffn.down_proj"),
    # Our parallel blocks have a norm for each part; two with the same weights are one norm.
    Move("model.layers.{i}.input_layernorm", "blocks.{i}.attn_norm blocks.{i}.ffn_norm"),
)
HEAD_NORMS = tuple(Move(f"model.layers.{{i}}.self_attn.{part}_layernorm", f"blocks.{{i}}.attn.{part}_norm")
                   for part in "qk")


def phi_plan(options: Options, state: Mapping[str, Tensor]) -> Plan:
    r"""The plan for PhiForCausalLM.

    Args:
        options: of the model.
        state: its weights.
    Returns: which model to build and how to fill it.
    Raises:
        ValueError: naming an option that can't be honoured.
    """
    width, n_heads, qk_norm = options["hidden_size"], options["num_attention_heads"], options["qk_layernorm"]
    head_dim = options.get("head_dim", width // n_heads)
    options.ignore("tie_word_embeddings", "max_position_embeddings")  # read off the weights; no table of positions
    config = ModelConfig(
        vocab_size=options["vocab_size"], max_seq_len=ANY_LEN, d_model=width, n_layers=options["num_hidden_layers"],
        n_heads=n_heads, n_kv_heads=options.get("num_key_value_heads", n_heads), head_dim=head_dim,
        ffn=Mlp(options["intermediate_size"], activation_option(options), bias=True),
        position=rope_option(options, head_dim, partial=True), norm=norm_option(options, "layer", "layer_norm_eps"),
        residual="parallel", attention=AttentionOptions(qkv_bias=True, o_bias=True, qk_norm=qk_norm),
        ends=Ends(head_bias=True), tie_embeddings=shares_memory(state, "lm_head.weight", "model.embed_tokens.weight"))
    return Plan(partial(GPT, config), [
        Move("model.embed_tokens", "tok_emb"),
        *each_layer(config.n_layers, LAYER + (HEAD_NORMS if qk_norm else ())),
        Move("model.final_layernorm", "final_norm"),
        Move("lm_head", "lm_head"),
    ])
