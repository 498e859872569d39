r"""Encoder and encoder-decoder: against torch's own layers, and the promises of their interfaces."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minillm.config import (
    Alibi,
    AttentionOptions,
    Ends,
    Glu,
    Init,
    Learned,
    Mlp,
    ModelConfig,
    NoPosition,
    Norm,
    Rope,
    Sinusoidal,
)
from minillm.layers import paths
from minillm.model.encoder import Encoder
from minillm.model.encoder_decoder import EncoderDecoder
from minillm.model.masked_lm import MaskedLM, SequenceClassifier

VARIANTS = {
    "first Transformer": dict(
        ffn=Mlp(24, "relu", bias=True), position=Sinusoidal(), residual="post", ends=Ends(embedding_scale=20**0.5),
        attention=AttentionOptions(True, True)),
    "gated, RMS": dict(ffn=Glu(24), position=Rope(), norm=Norm("rms"), tie_embeddings=False,
                       attention=AttentionOptions(scale=1.0), ends=Ends(logit_scale=0.3)),
    "learned": dict(ffn=Mlp(24), position=Learned(), n_kv_heads=2),
}


def config_of(variant, **changes):
    sizes = dict(vocab_size=31, max_seq_len=24, d_model=20, n_layers=2, n_heads=4, n_kv_heads=4, head_dim=5,
                 init=Init(0.5, 0.3, "plain"))
    changes = {"head_dim": 6} | changes if variant == "gated, RMS" else changes
    return ModelConfig(**sizes | VARIANTS[variant] | changes)


def shaken(model):
    model = model.eval().double()
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return model


def copy_attention(theirs: nn.MultiheadAttention, ours):
    weight = torch.cat([ours.q_proj.weight, ours.k_proj.weight, ours.v_proj.weight])
    bias = torch.cat([ours.q_proj.bias, ours.k_proj.bias, ours.v_proj.bias])
    theirs.load_state_dict({"in_proj_weight": weight, "in_proj_bias": bias,
                            "out_proj.weight": ours.o_proj.weight, "out_proj.bias": ours.o_proj.bias})


def as_torch(model: EncoderDecoder) -> nn.Transformer:
    r"""torch's own Transformer with our weights."""
    theirs = nn.Transformer(20, 4, 2, len(model.blocks), 24, 0.0, "relu", batch_first=True).double().eval()
    theirs.encoder.enable_nested_tensor = False
    theirs.encoder.norm = theirs.decoder.norm = None  # their extra final norms are not in the paper
    for ours, layer in [*zip(model.encoder.blocks, theirs.encoder.layers, strict=True),
                        *zip(model.blocks, theirs.decoder.layers, strict=True)]:
        copy_attention(layer.self_attn, ours.attn)
        norms = [(layer.norm1, ours.attn_norm)]
        if hasattr(ours, "cross"):
            copy_attention(layer.multihead_attn, ours.cross)
            norms += [(layer.norm2, ours.cross_norm), (layer.norm3, ours.ffn_norm)]
        else:
            norms += [(layer.norm2, ours.ffn_norm)]
        for their_norm, our_norm in [*norms, (layer.linear1, ours.ffn.up_proj), (layer.linear2, ours.ffn.down_proj)]:
            their_norm.load_state_dict(our_norm.state_dict())
    return theirs


def test_the_first_transformer_equals_torchs(fresh_seed):
    torch.manual_seed(fresh_seed)
    model = shaken(EncoderDecoder(config_of("first Transformer"), n_decoder_layers=3))
    source, target = torch.randint(0, 31, (3, 9)), torch.randint(0, 31, (3, 7))
    real = torch.arange(9) < torch.tensor([9, 4, 6])[:, None]

    def embedded(ids):
        t = torch.arange(ids.shape[1])[:, None]
        angle = t / 10000 ** (torch.arange(0, 20, 2) / 20)
        table = torch.stack([angle.sin(), angle.cos()], -1).flatten(1)
        return F.embedding(ids, model.tok_emb.weight) * 20**0.5 + table.double()

    with torch.no_grad():
        want = as_torch(model)(
            embedded(source), embedded(target), tgt_mask=nn.Transformer.generate_square_subsequent_mask(7).double(),
            src_key_padding_mask=~real, memory_key_padding_mask=~real) @ model.tok_emb.weight.T
    torch.testing.assert_close(model(source, target, real), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_cached_equals_uncached_and_padding_changes_nothing(variant, fresh_seed):
    torch.manual_seed(fresh_seed)
    model = shaken(EncoderDecoder(config_of(variant)))
    source, target = torch.randint(0, 31, (2, 8)), torch.randint(0, 31, (2, 6))
    real = torch.arange(8).flip(0) < torch.tensor([8, 5])[:, None]  # padding on the left
    whole = model(source, target, real)
    memory, cache = model.read(source, real), model.new_cache(2, 6)
    steps = [model.decode(part, memory, cache=cache) for part in target.split([2, 1, 3], dim=1)]
    torch.testing.assert_close(torch.cat(steps, 1), whole)
    torch.testing.assert_close(model(source[1:, 3:], target[1:]), whole[1:])
    with paths.plain_path():
        torch.testing.assert_close(model(source, target, real), whole)


@pytest.mark.parametrize("variant", VARIANTS)
def test_who_sees_whom(variant, fresh_seed):
    torch.manual_seed(fresh_seed)
    model = shaken(EncoderDecoder(config_of(variant)))
    source, target = torch.randint(0, 31, (1, 6)), torch.randint(0, 31, (1, 7))

    def moved(changed_source, changed_target):
        return (model(changed_source, changed_target) - model(source, target)).abs().amax(-1)[0]

    other = target.clone()
    other[0, 4] = (target[0, 4] + 1) % 31
    rows = moved(source, other)
    assert (rows[:4] == 0).all() and (rows[4:] > 0).all()
    for place in range(6):
        other = source.clone()
        other[0, place] = (source[0, place] + 1) % 31
        assert (moved(other, target) > 0).all()


def test_an_encoder_sees_both_ways_and_no_padding(fresh_seed):
    torch.manual_seed(fresh_seed)
    model = shaken(Encoder(config_of("learned", residual="post", ends=Ends(embedding_norm=True)), n_token_types=2))
    ids = torch.randint(0, 31, (1, 7))
    for place in range(7):
        other = ids.clone()
        other[0, place] = (ids[0, place] + 1) % 31
        assert ((model(other) - model(ids)).abs().amax(-1) > 0).all()
    longer = torch.cat([ids, torch.zeros(1, 3, dtype=torch.int64)], 1)
    real = torch.arange(10)[None] < 7
    torch.testing.assert_close(model(longer, real)[:, :7], model(ids))
    types = torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
    assert (model(ids, token_types=types) - model(ids)).abs().max() > 1e-3


def test_without_positions_an_encoder_reads_a_set(fresh_seed):
    torch.manual_seed(fresh_seed)
    model = shaken(Encoder(config_of("learned", position=NoPosition())))
    ids, order = torch.randint(0, 31, (2, 9)), torch.randperm(9)
    torch.testing.assert_close(model(ids[:, order]), model(ids)[:, order])


def test_masked_lm_and_classifier_by_hand(fresh_seed):
    torch.manual_seed(fresh_seed)
    config = config_of("learned", ends=Ends(head_bias=True))
    model, ids = shaken(MaskedLM(config)), torch.randint(0, 31, (2, 5))
    x = model.encoder(ids)
    x = F.gelu(F.linear(x, model.head_proj.weight, model.head_proj.bias))
    x = F.layer_norm(x, (20,), model.head_norm.weight, model.head_norm.bias, 1e-5)
    torch.testing.assert_close(model(ids), x @ model.encoder.tok_emb.weight.T + model.lm_head.bias)
    classifier = shaken(SequenceClassifier(config, n_classes=3))
    pooler, first = classifier.encoder.pooler, classifier.encoder(ids)[:, 0]
    want = classifier.classifier((first @ pooler.weight.T + pooler.bias).tanh())
    torch.testing.assert_close(classifier(ids), want)


def test_bad_choices_are_named():
    with pytest.raises(ValueError, match="window=3"):
        Encoder(config_of("learned", attention=AttentionOptions(window=3)))
    with pytest.raises(ValueError, match="Alibi"):
        Encoder(config_of("learned", position=Alibi()))
    with pytest.raises(ValueError, match="residual='parallel'"):
        EncoderDecoder(config_of("learned", residual="parallel"))
    with pytest.raises(ValueError, match="no pooler"):
        Encoder(config_of("learned")).pooled(torch.zeros(1, 2, 20))
    with pytest.raises(ValueError, match="token_types"):
        Encoder(config_of("learned"))(torch.zeros(1, 2, dtype=torch.int64), token_types=torch.zeros(1, 2).long())
