r"""GPT-2: learned positions, pre-norm, biases everywhere, one matrix for queries, keys and values."""

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from minillm.config import AttentionOptions, Learned, Mlp, ModelConfig
from minillm.model.gpt import GPT
from minillm.pretrained.options import Options
from minillm.pretrained.parts import activation_option, norm_option
from minillm.pretrained.weights import Move, Plan, each_layer, shares_memory


def gpt2_plan(options: Options, state: Mapping[str, Tensor]) -> Plan:
    r"""The plan for GPT2LMHeadModel.

    Args:
        options: of the model.
        state: its weights.
    Returns: which model to build and how to fill it.
    Raises:
        ValueError: naming an option that can't be honoured.
    """
    width, n_heads, n_layers = options["n_embd"], options["n_head"], options["n_layer"]
    options.require(not options["add_cross_attention"], "add_cross_attention", "a decoder alone has none; use False")
    options.ignore("reorder_and_upcast_attn")  # the same numbers in another precision
    options.ignore("tie_word_embeddings")  # read off the weights
    options.ignore("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels")  # another head
    config = ModelConfig(
        vocab_size=options["vocab_size"], max_seq_len=options["n_positions"], d_model=width, n_layers=n_layers,
        n_heads=n_heads, n_kv_heads=n_heads, head_dim=width // n_heads,
        ffn=Mlp(options.get("n_inner", 4 * width), activation_option(options, "activation_function"), bias=True),
        position=Learned(), norm=norm_option(options, "layer", "layer_norm_epsilon"),
        attention=AttentionOptions(qkv_bias=True, o_bias=True, scale=None if options["scale_attn_weights"] else 1.0),
        tie_embeddings=shares_memory(state, "lm_head.weight", "transformer.wte.weight"))
    return Plan(partial(GPT, config), [
        Move("transformer.wte", "tok_emb"),
        Move("transformer.wpe", "pos_emb"),
        *each_layer(n_layers, (
            Move("transformer.h.{i}.ln_1", "blocks.{i}.attn_norm"),
            Move("transformer.h.{i}.attn.c_proj", "blocks.{i}.attn.o_proj", _turn),
            Move("transformer.h.{i}.ln_2", "blocks.{i}.ffn_norm"),
            Move("transformer.h.{i}.mlp.c_fc", "blocks.{i}.ffn.up_proj", _turn),
            Move("transformer.h.{i}.mlp.c_proj", "blocks.{i}.ffn.down_proj", _turn))),
        *_attention(n_layers, options["scale_attn_by_inverse_layer_idx"]),
        Move("transformer.ln_f", "final_norm"),
        Move("lm_head", "lm_head"),
    ])


def _turn(weight: Tensor) -> Tensor:
    return weight.T if weight.dim() == 2 else weight  # GPT-2 keeps matrices as (d_in, d_out)


def _attention(n_layers: int, shrink_by_layer: bool) -> list[Move]:
    # Scores divided by the layer's number are scores of queries divided by it.
    return [Move(f"transformer.h.{i}.attn.c_attn", " ".join(f"blocks.{i}.attn.{part}_proj" for part in "qkv"),
                 partial(_split, divisor=i + 1 if shrink_by_layer else 1)) for i in range(n_layers)]


def _split(weight: Tensor, divisor: int) -> tuple[Tensor, ...]:
    q, k, v = _turn(weight).chunk(3)
    return q / divisor, k, v
