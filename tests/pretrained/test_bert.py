r"""BERT in three classes against transformers."""

import random

import pytest
import torch

from minillm.model.encoder import Encoder
from minillm.pretrained import from_hf
from tests.pretrained.parity import TOLERANCE, VOCABULARY, foreign_model, head_width, masks

CLASSES = ("BertModel", "BertForMaskedLM", "BertForSequenceClassification")


def bert_options(draw: random.Random) -> dict:
    n_heads = draw.randint(1, 4)
    return dict(
        num_attention_heads=n_heads, hidden_size=n_heads * head_width(draw, n_heads),
        num_hidden_layers=draw.randint(1, 3),
        intermediate_size=draw.randint(5, 30), hidden_act=draw.choice(["gelu", "relu", "gelu_new", "silu"]),
        max_position_embeddings=20, type_vocab_size=draw.randint(1, 3), layer_norm_eps=draw.choice([1e-12, 1e-2]),
        tie_word_embeddings=draw.random() < 0.5)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("draw_number", range(3))
def test_bert_gives_what_its_class_gives(name, draw_number, fresh_seed):
    draw = random.Random(fresh_seed + draw_number)
    options = bert_options(draw) | (dict(num_labels=5) if "Classification" in name else {})
    hf_model = foreign_model(name, fresh_seed, **options)
    model = from_hf(hf_model)
    torch.manual_seed(fresh_seed)
    token_ids = torch.randint(VOCABULARY, (3, 14))
    token_types = torch.randint(options["type_vocab_size"], (3, 14))
    # Where the first column stands for all, it must be no padding.
    sides = ("none", "right") if "Classification" in name else ("none", "left", "right")
    for side in sides:
        mask = masks(3, 14, draw)[side]
        with torch.no_grad():
            theirs = hf_model(token_ids, attention_mask=mask.long(), token_type_ids=token_types,
                              position_ids=(mask.cumsum(1) - 1).clamp(min=0))
            ours = model(token_ids, None if side == "none" else mask, token_types=token_types)
        want = theirs.last_hidden_state if name == "BertModel" else theirs.logits
        real = mask if ours.dim() == 3 else slice(None)
        assert (ours - want)[real].abs().max() <= TOLERANCE, side
        assert want[real].std() > 0.05
        if isinstance(model, Encoder) and side != "left":
            assert (model.pooled(ours) - theirs.pooler_output).abs().max() <= TOLERANCE
    with torch.no_grad():
        plain = hf_model(token_ids)
    want = plain.last_hidden_state if name == "BertModel" else plain.logits
    assert (model(token_ids) - want).abs().max() <= TOLERANCE, "without token types: all of segment 0"


@pytest.mark.parametrize(("name", "change", "message"), [
    ("BertLMHeadModel", dict(is_decoder=True), "is_decoder=True"),
    ("BertModel", dict(hidden_act="mish"), "hidden_act='mish'"),
    ("BertModel", dict(brand_new_option=3), "brand_new_option=3"),
    ("BertForPreTraining", {}, "left over"),
    ("BertForTokenClassification", {}, "left over|classifier|missing"),
])
def test_what_has_no_counterpart_is_refused(name, change, message):
    hf_model = foreign_model(name, 0, **bert_options(random.Random(0)) | change)
    with pytest.raises(ValueError, match=message):
        from_hf(hf_model)
