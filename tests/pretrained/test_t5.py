r"""T5 against transformers: whole, its encoder alone, with a cache."""

import random

import pytest
import torch

from minillm.layers import paths
from minillm.pretrained import from_hf
from tests.pretrained.parity import TOLERANCE, VOCABULARY, foreign_model, masks


def t5_options(draw: random.Random) -> dict:
    return dict(
        num_heads=draw.randint(1, 4), d_kv=draw.randint(2, 9), d_model=draw.randint(6, 24), d_ff=draw.randint(5, 30),
        num_layers=draw.randint(1, 3), num_decoder_layers=draw.randint(1, 3), decoder_start_token_id=0,
        relative_attention_num_buckets=draw.choice([4, 8, 32]), relative_attention_max_distance=draw.choice([17, 128]),
        feed_forward_proj=draw.choice(["relu", "gated-gelu", "gated-silu", "gelu"]),
        layer_norm_epsilon=draw.choice([1e-6, 1e-2]), **draw.choice([{}, dict(tie_word_embeddings=False)]))


@pytest.mark.parametrize("draw_number", range(5))
def test_t5_gives_the_same_logits(draw_number, fresh_seed):
    draw = random.Random(fresh_seed + draw_number)
    hf_model = foreign_model("T5ForConditionalGeneration", fresh_seed, **t5_options(draw))
    model = from_hf(hf_model)
    torch.manual_seed(fresh_seed)
    source, target = torch.randint(VOCABULARY, (3, 21)), torch.randint(VOCABULARY, (3, 15))
    for side, mask in masks(3, 21, draw).items():
        padding_mask = None if side == "none" else mask
        with torch.no_grad():
            want = hf_model(input_ids=source, attention_mask=mask.long(), decoder_input_ids=target).logits
            memory, cache = model.read(source, padding_mask), model.new_cache(3, 15)
            steps = [model.decode(part, memory, cache=cache) for part in target.split([4, 1, 10], dim=1)]
            with paths.plain_path():
                plain = model(source, target, padding_mask)
            for got in (model(source, target, padding_mask), torch.cat(steps, 1), plain):
                assert (got - want).abs().max() <= TOLERANCE, side
        assert want.std() > 0.05


def test_its_encoder_alone(fresh_seed):
    draw = random.Random(fresh_seed)
    hf_model = foreign_model("T5EncoderModel", fresh_seed, **t5_options(draw))
    token_ids = torch.randint(VOCABULARY, (3, 16), generator=torch.Generator().manual_seed(fresh_seed))
    for side, mask in masks(3, 16, draw).items():
        with torch.no_grad():
            want = hf_model(input_ids=token_ids, attention_mask=mask.long()).last_hidden_state
            got = from_hf(hf_model)(token_ids, mask)
        assert (got - want)[mask].abs().max() <= TOLERANCE, side


@pytest.mark.parametrize(("name", "change", "message"), [
    ("T5ForConditionalGeneration", dict(feed_forward_proj="gated-mish"), "dense_act_fn='mish'"),
    ("T5ForConditionalGeneration", dict(brand_new_option=3), "brand_new_option=3"),
    ("T5Model", {}, "lm_head"),
])
def test_what_has_no_counterpart_is_refused(name, change, message):
    hf_model = foreign_model(name, 0, **t5_options(random.Random(0)) | change)
    with pytest.raises(ValueError, match=message):
        from_hf(hf_model)
