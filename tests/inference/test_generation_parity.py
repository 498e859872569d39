r"""Our generation and that of transformers, on the same weights: beams, filters and penalties."""

import itertools

import pytest
import torch

from minillm.inference.beam import beam_search
from minillm.inference.generate import generate
from minillm.inference.left_padding import left_pad
from minillm.inference.sampling import apply_temperature, min_p_filter, top_k_filter, top_p_filter
from minillm.inference.steering import Steering
from minillm.pretrained.convert import from_hf

transformers = pytest.importorskip("transformers")
peers = pytest.importorskip("transformers.generation.logits_process")
END = 2


@pytest.fixture
def pair(fresh_seed):
    r"""A small model of theirs, with weights that make it sure of something, and ours with the same weights."""
    torch.manual_seed(fresh_seed)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=11, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, pad_token_id=END, bos_token_id=1, eos_token_id=END)).eval()
    for parameter in theirs.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return theirs, from_hf(theirs)


def test_beam_search_finds_the_same_texts_with_the_same_scores(pair):
    theirs, ours = pair
    rows = [[3, 4, 5, 6], [7, 8], [9, 10, 3]]
    token_ids, mask = left_pad(rows, END)
    for n_beams, length_penalty in itertools.product((2, 4), (0.0, 1.0, 1.6)):
        want = theirs.generate(
            token_ids, attention_mask=mask.long(), num_beams=n_beams, num_return_sequences=n_beams, max_new_tokens=8,
            length_penalty=length_penalty, do_sample=False, early_stopping="never", return_dict_in_generate=True,
            output_scores=True)
        got, scores = beam_search(ours, token_ids, 8, n_beams=n_beams, length_penalty=length_penalty, stop_ids=[END],
                                  pad_id=END, padding_mask=mask)
        assert torch.allclose(scores.flatten(), want.sequences_scores, atol=1e-4)
        sequences = want.sequences.view(3, n_beams, -1)
        assert torch.equal(got[:, :, : sequences.shape[2]], sequences)


def test_penalties_act_on_beams_alike(pair):
    theirs, ours = pair
    token_ids = torch.randint(3, 11, (2, 5))
    want = theirs.generate(
        token_ids, attention_mask=torch.ones_like(token_ids), num_beams=3, num_return_sequences=3, max_new_tokens=8,
        repetition_penalty=1.4, no_repeat_ngram_size=2, min_new_tokens=3, do_sample=False, early_stopping="never",
        return_dict_in_generate=True, output_scores=True)
    wishes = Steering(repetition_penalty=1.4, no_repeat_ngram=2, min_new_tokens=3)
    got, scores = beam_search(ours, token_ids, 8, n_beams=3, stop_ids=[END], pad_id=END,
                              processors=wishes.processors(5, [END]))
    assert torch.allclose(scores.flatten(), want.sequences_scores, atol=1e-4)
    sequences = want.sequences.view(2, 3, -1)
    assert torch.equal(got[:, :, : sequences.shape[2]], sequences)


def test_greedy_under_penalties_is_the_same(pair):
    theirs, ours = pair
    token_ids = torch.randint(3, 11, (3, 5))
    want = theirs.generate(
        token_ids, attention_mask=torch.ones_like(token_ids), max_new_tokens=12, repetition_penalty=1.3,
        no_repeat_ngram_size=3, min_new_tokens=4, do_sample=False)
    processors = Steering(repetition_penalty=1.3, no_repeat_ngram=3, min_new_tokens=4).processors(5, [END])
    got = generate(ours, token_ids, 12, temperature=0.0, stop_ids=[END], pad_id=END, processors=processors)
    assert torch.equal(got[:, : want.shape[1]], want)


def test_filters_are_the_same(fresh_seed):
    logits = 3 * torch.randn(4, 50, generator=torch.Generator().manual_seed(fresh_seed))
    for theirs, ours in (
        (peers.TemperatureLogitsWarper(0.7), lambda x: apply_temperature(x, 0.7)),
        (peers.TopKLogitsWarper(7), lambda x: top_k_filter(x, 7)),
        (peers.TopPLogitsWarper(0.8), lambda x: top_p_filter(x, 0.8)),
        (peers.MinPLogitsWarper(0.05), lambda x: min_p_filter(x, 0.05)),
    ):
        assert torch.equal(ours(logits), theirs(None, logits.clone()))
