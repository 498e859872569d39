r"""BERT: an encoder with post-norm, and one of three things on top of it."""

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from minillm.config import AttentionOptions, Ends, Learned, Mlp, ModelConfig
from minillm.model.encoder import Encoder
from minillm.model.masked_lm import MaskedLM, SequenceClassifier
from minillm.pretrained.options import Options
from minillm.pretrained.parts import activation_option, norm_option
from minillm.pretrained.weights import Move, Plan, each_layer, shares_memory

EMBEDDINGS = (
    Move("embeddings.word_embeddings", "tok_emb"),
    Move("embeddings.position_embeddings", "pos_emb"),
    Move("embeddings.token_type_embeddings", "type_emb"),
    Move("embeddings.LayerNorm", "emb_norm"),
)
LAYER = (
    Move("encoder.layer.{i}.attention.self.query", "blocks.{i}.attn.q_proj"),
    Move("encoder.layer.{i}.attention.self.key", "blocks.{i}.attn.k_proj"),
    Move("encoder.layer.{i}.attention.self.value", "blocks.{i}.attn.v_proj"),
    Move("encoder.layer.{i}.attention.output.dense", "blocks.{i}.attn.o_proj"),
    Move("encoder.layer.{i}.attention.output.LayerNorm", "blocks.{i}.attn_norm"),
    Move("encoder.layer.{i}.intermediate.dense", "blocks.{i}.ffn.up_proj"),
    Move("encoder.layer.{i}.output.dense", "blocks.{i}.ffn.down_proj"),
    Move("encoder.layer.{i}.output.LayerNorm", "blocks.{i}.ffn_norm"),
)
HEAD = (
    Move("cls.predictions.transform.dense", "head_proj"),
    Move("cls.predictions.transform.LayerNorm", "head_norm"),
    Move("cls.predictions.decoder", "lm_head"),
    Move("cls.predictions", ""),  # a second bias: the decoder's by another name, or, untied, used by nothing
)


def bert_plan(options: Options, state: Mapping[str, Tensor]) -> Plan:
    r"""The plan for BertModel, BertForMaskedLM and BertForSequenceClassification.

    Args:
        options: of the model.
        state: its weights, which tell the class.
    Returns: which model to build and how to fill it; for BertModel an `Encoder` that gives its last hidden state.
    Raises:
        ValueError: naming an option that can't be honoured.
    """
    width, n_heads = options["hidden_size"], options["num_attention_heads"]
    options.require(not options["is_decoder"], "is_decoder", "this converter makes an encoder; use False")
    options.require(not options["add_cross_attention"], "add_cross_attention", "an encoder has none; use False")
    options.ignore("tie_word_embeddings")  # read off the weights
    options.ignore("chunk_size_feed_forward")  # the FFN in pieces, to the same result
    activation, types = activation_option(options), options["type_vocab_size"]
    masked = "cls.predictions.decoder.weight" in state
    config = ModelConfig(
        vocab_size=options["vocab_size"], max_seq_len=options["max_position_embeddings"], d_model=width,
        n_layers=options["num_hidden_layers"], n_heads=n_heads, n_kv_heads=n_heads, head_dim=width // n_heads,
        ffn=Mlp(options["intermediate_size"], activation, bias=True), position=Learned(),
        norm=norm_option(options, "layer", "layer_norm_eps"), residual="post",
        attention=AttentionOptions(qkv_bias=True, o_bias=True), ends=Ends(embedding_norm=True, head_bias=masked),
        tie_embeddings=shares_memory(
            state, "cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"))
    encoder = [*EMBEDDINGS, *each_layer(config.n_layers, LAYER)]
    pooler = Move("pooler.dense", "pooler")
    if masked:
        return Plan(partial(MaskedLM, config, types, activation), [*_inside(encoder), *HEAD])
    if "classifier.weight" in state and "bert.pooler.dense.weight" in state:
        build = partial(SequenceClassifier, config, len(state["classifier.weight"]), types)
        return Plan(build, [*_inside([*encoder, pooler]), Move("classifier", "classifier")])
    pooled = "pooler.dense.weight" in state
    return Plan(partial(Encoder, config, types, pooled), [*encoder, pooler] if pooled else encoder)


def _inside(moves: list[Move]) -> list[Move]:
    return [Move(f"bert.{move.theirs}", f"encoder.{move.ours}", move.how) for move in moves]
