r"""BLOOM: ALiBi, a norm on the embedding, one matrix for queries, keys and values."""

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from minillm.config import Alibi, AttentionOptions, Ends, Mlp, ModelConfig
from minillm.model.gpt import GPT
from minillm.pretrained.options import Options
from minillm.pretrained.parts import norm_option
from minillm.pretrained.rope import ANY_LEN
from minillm.pretrained.weights import Move, Plan, each_layer, shares_memory, split_by_head

LAYER = (
    Move("transformer.h.{i}.input_layernorm", "blocks.{i}.attn_norm"),
    Move("transformer.h.{i}.self_attention.dense", "blocks.{i}.attn.o_proj"),
    Move("transformer.h.{i}.post_attention_layernorm", "blocks.{i}.ffn_norm"),
    Move("transformer.h.{i}.mlp.dense_h_to_4h", "blocks.{i}.ffn.up_proj"),
    Move("transformer.h.{i}.mlp.dense_4h_to_h", "blocks.{i}.ffn.down_proj"),
)


def bloom_plan(options: Options, state: Mapping[str, Tensor]) -> Plan:
    r"""The plan for BloomForCausalLM.

    Args:
        options: of the model.
        state: its weights.
    Returns: which model to build and how to fill it.
    Raises:
        ValueError: naming an option that can't be honoured.
    """
    width, n_heads, n_layers = options["hidden_size"], options["n_head"], options["n_layer"]
    options.require(not options["apply_residual_connection_post_layernorm"], "apply_residual_connection_post_layernorm",
                    "our blocks carry the stream itself on, not its normalized copy; use False")
    cut_up = options["pretraining_tp"] > 1  # of no effect by itself
    options.require(not (options["slow_but_exact"] and cut_up), "slow_but_exact",
                    "with pretraining_tp > 1 it leaves out two biases; use False")
    options.ignore("tie_word_embeddings")  # read off the weights
    config = ModelConfig(
        vocab_size=options["vocab_size"], max_seq_len=ANY_LEN, d_model=width, n_layers=n_layers, n_heads=n_heads,
        n_kv_heads=n_heads, head_dim=width // n_heads, ffn=Mlp(4 * width, "gelu_tanh", bias=True), position=Alibi(),
        norm=norm_option(options, "layer", "layer_norm_epsilon"), ends=Ends(embedding_norm=True),
        attention=AttentionOptions(qkv_bias=True, o_bias=True),
        tie_embeddings=shares_memory(state, "lm_head.weight", "transformer.word_embeddings.weight"))
    qkv = Move("transformer.h.{i}.self_attention.query_key_value",
               "blocks.{i}.attn.q_proj blocks.{i}.attn.k_proj blocks.{i}.attn.v_proj",
               partial(split_by_head, n_heads=n_heads))
    return Plan(partial(GPT, config), [
        Move("transformer.word_embeddings", "tok_emb"),
        Move("transformer.word_embeddings_layernorm", "emb_norm"),
        *each_layer(n_layers, (qkv, *LAYER)),
        Move("transformer.ln_f", "final_norm"),
        Move("lm_head", "lm_head"),
    ])
