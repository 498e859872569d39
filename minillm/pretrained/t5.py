r"""T5: an encoder-decoder with trained biases for distances, RMSNorm, no scale on scores and no biases elsewhere."""

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from minillm.config import AttentionOptions, Ends, Glu, Mlp, ModelConfig, T5Bias
from minillm.model.encoder import Encoder
from minillm.model.encoder_decoder import EncoderDecoder
from minillm.pretrained.options import Options
from minillm.pretrained.parts import activation_option, norm_option
from minillm.pretrained.rope import ANY_LEN
from minillm.pretrained.weights import Move, Plan, each_layer, shares_memory


def t5_plan(options: Options, state: Mapping[str, Tensor]) -> Plan:
    r"""The plan for T5ForConditionalGeneration and T5EncoderModel.

    Args:
        options: of the model.
        state: its weights, which tell the class.
    Returns: which model to build and how to fill it.
    Raises:
        ValueError: naming an option that can't be honoured.
    """
    n_heads, width = options["num_heads"], options["d_model"]
    options.require(not options["is_decoder"], "is_decoder", "the encoder-decoder sets it itself; use False")
    options.ignore("feed_forward_proj")  # told by the two that it is split into
    options.ignore("tie_word_embeddings", "initializer_factor", "is_encoder_decoder", "classifier_dropout")
    activation, gated = activation_option(options, "dense_act_fn"), options["is_gated_act"]
    scaled = options["scale_decoder_outputs"]
    config = ModelConfig(
        vocab_size=options["vocab_size"], max_seq_len=ANY_LEN, d_model=width, n_layers=options["num_layers"],
        n_heads=n_heads, n_kv_heads=n_heads, head_dim=options["d_kv"],
        ffn=(Glu if gated else Mlp)(options["d_ff"], activation),
        position=T5Bias(options["relative_attention_num_buckets"], options["relative_attention_max_distance"]),
        norm=norm_option(options, "rms", "layer_norm_epsilon"), attention=AttentionOptions(scale=1.0),
        ends=Ends(logit_scale=width**-0.5 if scaled else 1.0),
        tie_embeddings=shares_memory(state, "lm_head.weight", "shared.weight"))
    n_decoder_layers = options.get("num_decoder_layers", config.n_layers)
    embedding = [Move("shared", "tok_emb"), Move("encoder.embed_tokens", "tok_emb")]
    if "decoder.final_layer_norm.weight" not in state:
        return Plan(partial(Encoder, config), [
            *embedding, *_stack("encoder", "", config.n_layers, gated, crossed=False)])
    return Plan(partial(EncoderDecoder, config, n_decoder_layers), [
        *embedding, Move("decoder.embed_tokens", "tok_emb"),
        *_stack("encoder", "encoder.", config.n_layers, gated, crossed=False),
        *_stack("decoder", "", n_decoder_layers, gated, crossed=True),
        Move("lm_head", "lm_head"),
    ])


def _stack(theirs: str, ours: str, n_layers: int, gated: bool, crossed: bool) -> list[Move]:
    layer, block, ffn_at = f"{theirs}.block.{{i}}.layer", f"{ours}blocks.{{i}}", 2 if crossed else 1
    moves = [*_attention(f"{layer}.0.SelfAttention", f"{block}.attn"),
             Move(f"{layer}.0.layer_norm", f"{block}.attn_norm")]
    if crossed:
        moves += [*_attention(f"{layer}.1.EncDecAttention", f"{block}.cross"),
                  Move(f"{layer}.1.layer_norm", f"{block}.cross_norm")]
    names = {"wi_0": "gate_proj", "wi_1": "up_proj"} if gated else {"wi": "up_proj"}
    moves += [Move(f"{layer}.{ffn_at}.DenseReluDense.{name}", f"{block}.ffn.{our}")
              for name, our in {**names, "wo": "down_proj"}.items()]
    moves.append(Move(f"{layer}.{ffn_at}.layer_norm", f"{block}.ffn_norm"))
    return [
        *each_layer(n_layers, moves),
        Move(f"{theirs}.block.0.layer.0.SelfAttention.relative_attention_bias",
             f"{ours}blocks.0.attn.bias_rule.per_bucket"),
        Move(f"{theirs}.final_layer_norm", f"{ours}final_norm"),
    ]


def _attention(theirs: str, ours: str) -> list[Move]:
    return [Move(f"{theirs}.{part}", f"{ours}.{part}_proj") for part in "qkvo"]
