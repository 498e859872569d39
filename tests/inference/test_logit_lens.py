r"""The logit lens against the model's own layers, run by hand."""

import pytest
import torch

from minillm.config import preset
from minillm.inference import logit_lens
from minillm.model.gpt import GPT
from minillm.text.byte_tokenizer import ByteTokenizer


def small_model(seed, **changes):
    return GPT(preset("tiny", vocab_size=258, max_seq_len=32, **changes), torch.Generator().manual_seed(seed)).eval()


def test_the_last_lens_is_the_model_and_the_first_the_bare_embedding(fresh_seed):
    model = small_model(fresh_seed)
    token_ids = torch.randint(258, (2, 9), generator=torch.Generator().manual_seed(fresh_seed))
    lens = logit_lens.lens_logits(model, token_ids)
    with torch.no_grad():
        torch.testing.assert_close(lens[-1], model(token_ids))
        embedded = model.tok_emb(token_ids) + model.pos_emb(torch.arange(9))
        torch.testing.assert_close(lens[0], model.lm_head(model.final_norm(embedded)))
    assert lens.shape == (model.config.n_layers + 1, 2, 9, 258) and not lens.requires_grad


def test_a_model_without_its_upper_layers_says_what_the_lens_says(fresh_seed):
    model = small_model(fresh_seed)
    token_ids = torch.randint(258, (1, 7), generator=torch.Generator().manual_seed(fresh_seed))
    lens = logit_lens.lens_logits(model, token_ids)
    model.blocks = model.blocks[:1]
    with torch.no_grad():
        torch.testing.assert_close(lens[1], model(token_ids))


@pytest.mark.parametrize("seed", [1, 2])  # fixed: two tokens nearly as likely would change places by rounding
def test_tops_are_sorted_and_ranked_against_what_is_said_in_the_end(seed):
    model, tokenizer = small_model(seed), ByteTokenizer()
    token_ids = torch.randint(256, (1, 6), generator=torch.Generator().manual_seed(seed))
    tops = logit_lens.lens_tops(model, tokenizer, token_ids, top_k=3)
    lens = logit_lens.lens_logits(model, token_ids)[:, 0].double().softmax(-1)
    for layer in range(len(lens)):
        for place in range(6):
            order = sorted(range(258), key=lambda i: -float(lens[layer, place, i]))  # noqa: B023
            said = int(lens[-1, place].argmax())
            assert tops.texts[layer][place] == [tokenizer.decode([i]) for i in order[:3]]
            assert int(tops.ranks[layer, place]) == order.index(said)
            torch.testing.assert_close(tops.nats[layer, place].double(), -lens[layer, place, said].log(),
                                       rtol=1e-4, atol=1e-5)
    assert tops.ranks[-1].tolist() == [0] * 6 and tops.probabilities.shape == (len(lens), 6, 3)
