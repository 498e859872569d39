r"""GPT-NeoX: a share of each head's features turned, attention and FFN side by side, one matrix for q, k and v."""

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from minillm.config import AttentionOptions, Mlp, ModelConfig
from minillm.model.gpt import GPT
from minillm.pretrained.options import Options
from minillm.pretrained.parts import activation_option, norm_option
from minillm.pretrained.rope import ANY_LEN, rope_option
from minillm.pretrained.weights import Move, Plan, each_layer, shares_memory, split_by_head

LAYER = (
    Move("gpt_neox.layers.{i}.input_layernorm", "blocks.{i}.attn_norm"),
    Move("gpt_neox.layers.{i}.attention.dense", "blocks.{i}.attn.o_proj"),
    Move("gpt_neox.layers.{i}.post_attention_layernorm", "blocks.{i}.ffn_norm"),
    Move("gpt_neox.layers.{i}.mlp.dense_h_to_4h", "blocks.{i}.ffn.up_proj"),
    Move("gpt_neox.layers.{i}.mlp.dense_4h_to_h", "blocks.{i}.ffn.down_proj"),
)


def gpt_neox_plan(options: Options, state: Mapping[str, Tensor]) -> Plan:
    r"""The plan for GPTNeoXForCausalLM.

    Args:
        options: of the model.
        state: its weights.
    Returns: which model to build and how to fill it.
    Raises:
        ValueError: naming an option that can't be honoured.
    """
    width, n_heads, bias = options["hidden_size"], options["num_attention_heads"], options["attention_bias"]
    options.ignore("tie_word_embeddings", "max_position_embeddings")  # read off the weights; no table of positions
    options.ignore("is_decoder")  # the attention is causal either way
    config = ModelConfig(
        vocab_size=options["vocab_size"], max_seq_len=ANY_LEN, d_model=width, n_layers=options["num_hidden_layers"],
        n_heads=n_heads, n_kv_heads=n_heads, head_dim=width // n_heads,
        ffn=Mlp(options["intermediate_size"], activation_option(options), bias=True),
        position=rope_option(options, width // n_heads, partial=True),
        norm=norm_option(options, "layer", "layer_norm_eps"),
        residual="parallel" if options["use_parallel_residual"] else "pre",
        attention=AttentionOptions(qkv_bias=bias, o_bias=bias),
        tie_embeddings=shares_memory(state, "lm_head.weight", "gpt_neox.embed_in.weight"))
    qkv = Move("gpt_neox.layers.{i}.attention.query_key_value",
               "blocks.{i}.attn.q_proj blocks.{i}.attn.k_proj blocks.{i}.attn.v_proj",
               partial(split_by_head, n_heads=n_heads))
    return Plan(partial(GPT, config), [
        Move("gpt_neox.embed_in", "tok_emb"),
        *each_layer(config.n_layers, (qkv, *LAYER)),
        Move("gpt_neox.final_layer_norm", "final_norm"),
        Move("lm_head", "lm_head"),
    ])
