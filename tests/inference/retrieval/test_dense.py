r"""Vectors of texts: batching and padding change nothing; the index knows what is near."""

import pytest
import torch

from minillm.config import preset
from minillm.inference import pooling
from minillm.inference.retrieval.dense import DenseIndex, embed_texts
from minillm.layers.recorder import record
from minillm.model.gpt import GPT
from minillm.text.byte_tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer()
TEXTS = ["a", "some words", "more words than that, so many that a few are cut off", "été", "b"]


def small_model(seed):
    return GPT(preset("tiny", vocab_size=258, max_seq_len=40), torch.Generator().manual_seed(seed)).eval()


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_each_text_is_embedded_as_if_alone(batch_size, fresh_seed):
    model = small_model(fresh_seed)
    vectors = embed_texts(model, TOKENIZER, TEXTS, batch_size=batch_size)
    for vector, text in zip(vectors, TEXTS, strict=True):
        with torch.no_grad():
            hidden = model.hidden(torch.tensor([TOKENIZER.encode(text)[:40]]))[0]
        torch.testing.assert_close(vector, hidden.mean(0), rtol=1e-4, atol=1e-5)


def test_other_layers_and_other_pooling(fresh_seed):
    model = small_model(fresh_seed)
    vectors = embed_texts(model, TOKENIZER, TEXTS[:2], pooling.last_token_pool, layer=1)
    for vector, text in zip(vectors, TEXTS, strict=False):
        with torch.no_grad(), record("residual") as tape:
            model(torch.tensor([TOKENIZER.encode(text)]))
        torch.testing.assert_close(vector, tape["residual"][1][0, -1], rtol=1e-4, atol=1e-5)


def test_what_cannot_be_embedded_is_refused():
    with pytest.raises(ValueError, match=r"texts\[1\] has no token"):
        embed_texts(small_model(0), TOKENIZER, ["a", ""])
    with pytest.raises(ValueError, match="layer=9: use 0 to n_layers=2"):
        embed_texts(small_model(0), TOKENIZER, ["a"], layer=9)


def test_the_index_finds_each_vector_whatever_all_share(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    own = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q[:6]
    index = DenseIndex(own + 100 * torch.randn(8, generator=generator))
    for i, vector in enumerate(own + index.mean - own.mean(0)):
        scores = index.scores(vector)
        assert int(scores.argmax()) == i and float(scores[i]) == pytest.approx(1.0, abs=1e-3)
        assert float(scores.sum()) == pytest.approx(0.0, abs=1e-2)  # the others: -1/5 each
