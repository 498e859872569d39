r"""OPT: learned positions that start at row 2 of their table, ReLU, norms before or after."""

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from minillm.config import AttentionOptions, Learned, Mlp, ModelConfig, Norm
from minillm.model.gpt import GPT
from minillm.pretrained.options import Options
from minillm.pretrained.parts import activation_option
from minillm.pretrained.weights import Move, Plan, each_layer, shares_memory

OFFSET = 2  # rows of the table before that of position 0
LAYER = (
    *(Move(f"model.decoder.layers.{{i}}.self_attn.{part}_proj", f"blocks.{{i}}.attn.{part}_proj") for part in "qkv"),
    Move("model.decoder.layers.{i}.self_attn.out_proj", "blocks.{i}.attn.o_proj"),
    Move("model.decoder.layers.{i}.fc1", "blocks.{i}.ffn.up_proj"),
    Move("model.decoder.layers.{i}.fc2", "blocks.{i}.ffn.down_proj"),
)
WIDE = (Move("model.decoder.embed_tokens", "tok_emb"), Move("lm_head", "lm_head"))
# Embeddings narrower than the stream, with a matrix behind the first and one before the last: two matrices in a row are
# one, their product.
NARROW = (
    Move("model.decoder.embed_tokens model.decoder.project_in", "tok_emb", lambda table, into: table @ into.T),
    Move("lm_head model.decoder.project_out", "lm_head", lambda table, out_of: table @ out_of),
)


def opt_plan(options: Options, state: Mapping[str, Tensor]) -> Plan:
    r"""The plan for OPTForCausalLM.

    Args:
        options: of the model.
        state: its weights.
    Returns: which model to build and how to fill it.
    Raises:
        ValueError: naming an option that can't be honoured.
    """
    width, n_heads, bias = options["hidden_size"], options["num_attention_heads"], options["enable_bias"]
    pre_norm, narrow = options["do_layer_norm_before"], options["word_embed_proj_dim"] != width
    options.require(not options["_remove_final_layer_norm"], "_remove_final_layer_norm",
                    "our pre-norm models have a final norm; use False")
    options.ignore("tie_word_embeddings")  # read off the weights
    config = ModelConfig(
        vocab_size=options["vocab_size"], max_seq_len=options["max_position_embeddings"], d_model=width,
        n_layers=options["num_hidden_layers"], n_heads=n_heads, n_kv_heads=n_heads, head_dim=width // n_heads,
        ffn=Mlp(options["ffn_dim"], activation_option(options, "activation_function"), bias), position=Learned(),
        norm=Norm("layer", 1e-5), residual="pre" if pre_norm else "post",
        attention=AttentionOptions(qkv_bias=bias, o_bias=bias),
        tie_embeddings=not narrow and shares_memory(state, "lm_head.weight", "model.decoder.embed_tokens.weight"))
    affine = options["layer_norm_elementwise_affine"]  # without, norms keep their ones and zeros
    norms = tuple(Move(f"model.decoder.layers.{{i}}.{name}" if affine else "", f"blocks.{{i}}.{ours}_norm")
                  for name, ours in (("self_attn_layer_norm", "attn"), ("final_layer_norm", "ffn")))
    return Plan(partial(GPT, config), [
        Move("model.decoder.embed_positions", "pos_emb", lambda table: table[OFFSET:]),
        *(NARROW if narrow else WIDE),
        *each_layer(config.n_layers, LAYER + norms),
        *([Move("model.decoder.final_layer_norm" if affine else "", "final_norm")] if pre_norm else []),
    ])
