r"""What `from_hf` refuses before any family is asked, and what it promises of every model."""

import pytest
import torch
import transformers

from minillm.inference.generate import generate
from minillm.pretrained import FAMILIES, from_hf
from tests.pretrained.parity import VOCABULARY, foreign_model, reference_logits

SMALL = dict(hidden_size=16, num_attention_heads=2, num_hidden_layers=2, intermediate_size=12)


def llama(**options):
    return foreign_model("LlamaForCausalLM", 0, **SMALL | options)


@pytest.mark.parametrize("wrong", ["gpt2", None, torch.nn.Linear(2, 2), transformers.LlamaConfig(), {}], ids=repr)
def test_what_is_no_model_is_refused(wrong):
    with pytest.raises(TypeError, match="hf_model=.*model object of transformers"):
        from_hf(wrong)


def test_an_unknown_family_is_refused_by_name():
    config = transformers.CohereConfig(**SMALL, vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2)
    with pytest.raises(ValueError, match="'cohere'.*use one of .*gpt2.*llama"):
        from_hf(transformers.CohereForCausalLM(config))
    assert {"gpt2", "llama"} <= set(FAMILIES)


def test_a_model_without_its_head_is_refused():
    with pytest.raises(ValueError, match="model.embed_tokens.*ForCausalLM"):
        from_hf(llama().model)


def test_a_weight_too_many_or_of_another_shape_is_refused():
    hf_model = llama()
    hf_model.adapter = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="adapter.weight.*left over"):
        from_hf(hf_model)
    hf_model = llama()
    hf_model.model.layers[1].mlp.up_proj = torch.nn.Linear(16, 13, bias=False)
    with pytest.raises(ValueError, match=r"blocks.1.ffn.up_proj.weight.*\(13, 16\).*\(12, 16\)"):
        from_hf(hf_model)


def test_a_bias_that_the_configuration_denies_is_refused():
    hf_model = llama()
    hf_model.model.layers[0].self_attn.q_proj = torch.nn.Linear(16, 16, bias=True)
    with pytest.raises(ValueError, match="blocks.0.attn.q_proj.bias"):
        from_hf(hf_model)


def test_an_option_set_after_the_model_was_made_is_seen():
    hf_model = llama()
    hf_model.config.an_option_of_tomorrow = True
    with pytest.raises(ValueError, match="an_option_of_tomorrow=True.*does not know"):
        from_hf(hf_model)


@pytest.mark.parametrize("option, value", [
    ("use_cache", False), ("initializer_range", 0.5), ("attention_dropout", 0.3), ("num_labels", 7),
    ("pad_token_id", 3), ("architectures", ["Other"]), ("output_hidden_states", False), ("name_or_path", "somewhere"),
])  # fmt: skip
def test_options_without_effect_pass(option, value):
    hf_model, ids = llama(**{option: value}), torch.randint(VOCABULARY, (2, 9))
    want = reference_logits(hf_model, ids, torch.ones(2, 9, dtype=torch.bool))
    torch.testing.assert_close(from_hf(hf_model)(ids), want, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtype_is_the_model_s(dtype):
    hf_model, ids = llama().to(dtype), torch.randint(VOCABULARY, (2, 9))
    model = from_hf(hf_model)
    assert {p.dtype for p in model.parameters()} == {dtype}
    want = reference_logits(hf_model, ids, torch.ones(2, 9, dtype=torch.bool))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), want, atol=60 * torch.finfo(dtype).eps + 1e-5, rtol=0.02)


def test_it_writes_the_same_text():
    hf_model, ids = llama(), torch.randint(3, VOCABULARY, (2, 6))  # 1 and 2 begin and end texts
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, :4] = False  # a short prompt, padded on the left
    hf_model.generation_config.eos_token_id = None
    want = hf_model.generate(ids, attention_mask=mask.long(), max_new_tokens=12, do_sample=False, pad_token_id=0)
    assert torch.equal(generate(from_hf(hf_model), ids, 12, temperature=0.0, padding_mask=mask), want)


def test_mixed_dtypes_are_refused():
    hf_model = llama()
    hf_model.lm_head.to(torch.float64)
    with pytest.raises(ValueError, match="float32.*float64.*one floating dtype"):
        from_hf(hf_model)


def test_tied_is_what_the_weights_are():
    tied, apart = llama(tie_word_embeddings=True), llama(tie_word_embeddings=False)
    model = from_hf(tied)
    assert model.lm_head.weight is model.tok_emb.weight
    model = from_hf(apart)
    assert model.lm_head.weight is not model.tok_emb.weight


def test_random_numbers_are_not_used_up():
    hf_model = llama()
    state = torch.get_rng_state()
    from_hf(hf_model)
    assert torch.equal(torch.get_rng_state(), state)
