r"""Text in, text out: the pieces are those of generation, and no character is torn."""

import pytest
import torch

from minillm.config import preset
from minillm.inference.generate import generate
from minillm.inference.text import encode_prompt, stream_text
from minillm.model.gpt import GPT
from minillm.text.byte_tokenizer import ByteTokenizer
from minillm.text.words import WordTokenizer

WORDS = WordTokenizer(["the", "cat", "sat", "on", "mat", "."])


def make_model(seed, vocab_size, max_seq_len=24):
    model = GPT(preset("tiny", vocab_size=vocab_size, max_seq_len=max_seq_len), torch.Generator().manual_seed(seed))
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
    return model.eval()


def test_pieces_are_what_generate_writes(fresh_seed):
    model = make_model(fresh_seed, WORDS.vocab_size)
    ids = torch.tensor([encode_prompt(WORDS, "the cat", 24)])
    assert ids.tolist() == [[WORDS.bos_id, 3, 4]]
    for n in (1, 5, 22):
        options = [dict(temperature=1.3, top_k=5, generator=torch.Generator().manual_seed(7)) for _ in range(2)]
        told = generate(model, ids, n, stop_ids=[WORDS.eos_id], pad_id=WORDS.eos_id, **options[0])
        want = WORDS.decode(told[0].tolist())
        pieces = list(stream_text(model, WORDS, "the cat", n, **options[1]))
        assert "the cat" + "".join(pieces) == want and all(pieces)


def test_it_ends_where_the_positions_end(fresh_seed):
    model = make_model(fresh_seed, 256)
    model.tok_emb.weight.data.zero_()  # all logits equal: greedy writes byte 0 for ever
    for limit in (None, 1000):
        assert "".join(stream_text(model, ByteTokenizer(), "abc", limit, temperature=0.0)) == "\0" * (24 - 3 + 1)


def test_a_character_of_several_bytes_comes_whole():
    class Scripted(torch.nn.Module):
        r"""Writes given bytes, whatever it reads."""

        def __init__(self, script):
            super().__init__()
            self.anything = torch.nn.Parameter(torch.zeros(1))
            self.config = preset("tiny", vocab_size=256, max_seq_len=64)
            self.script = list(script)

        def new_cache(self, *sizes):
            return []

        def forward(self, token_ids, padding_mask=None, positions=None, cache=None):
            logits = torch.zeros(1, token_ids.shape[1], 256)
            logits[0, -1, self.script.pop(0)] = 99.0
            return logits

    text = "é猫🙂x"
    pieces = list(stream_text(Scripted(text.encode()), ByteTokenizer(), "a", len(text.encode()), temperature=0.0))
    assert pieces == list(text)
    torn = "猫".encode()[:2]
    assert "".join(stream_text(Scripted(b"x" + torn), ByteTokenizer(), "a", 3, temperature=0.0)).startswith("x")


def test_prompts_that_cannot_be_used():
    model = make_model(0, 256, max_seq_len=5)
    with pytest.raises(ValueError, match="give at least one character"):
        list(stream_text(model, ByteTokenizer(), ""))
    with pytest.raises(ValueError, match="prompt has 6 tokens: the model takes max_seq_len=5"):
        list(stream_text(model, ByteTokenizer(), "abcdef"))
    assert encode_prompt(WORDS, "", 5) == [WORDS.bos_id]
    with pytest.raises(ValueError, match="'dog'"):
        encode_prompt(WORDS, "the dog", 5)
