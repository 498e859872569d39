r"""What lesson 16 does with the real model: found or not, asked in batches, silenced head by head."""

import itertools

import pytest
import torch

from minillm.config import Init, preset
from minillm.course.scenes import real_model
from minillm.course.scenes.harbour_notes import NOTES
from minillm.course.scenes.real_model import (
    all_but_the_first,
    answers_to,
    find_model,
    is_here,
    silent_heads,
    word_subsets,
    write_after,
)
from minillm.model.gpt import GPT
from minillm.text.byte_tokenizer import ByteTokenizer
from minillm.text.chat_template import chat_text


class EndingBytes(ByteTokenizer):
    r"""Bytes with an end token and a template: what a chat model's tokenizer has."""

    eos_id = 0
    chat_template = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
                     "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
                     "{% endif %}")


def small_gpt(seed=0):
    config = preset("tiny", vocab_size=ByteTokenizer().vocab_size, max_seq_len=200, init=Init(residual="plain"))
    return GPT(config, torch.Generator().manual_seed(seed)).eval()


def test_without_weights_a_line_says_so_and_cells_are_passed_over(monkeypatch, capsys):
    def nothing(*args, **choices):
        raise ValueError("its weights are not on this machine")

    monkeypatch.setattr(real_model, "load", nothing)
    assert find_model() == (None, None)
    assert "not on this machine" in capsys.readouterr().out
    assert not is_here(None) and "passed over" in capsys.readouterr().out
    assert is_here(small_gpt()) and capsys.readouterr().out == ""


def test_a_batch_of_prompts_is_answered_like_each_alone():
    model, tokenizer = small_gpt(), EndingBytes()
    prompts = ["a", "a longer one", "of another length"]
    together = write_after(model, tokenizer, prompts, 6)
    alone = [write_after(model, tokenizer, [prompt], 6)[0] for prompt in prompts]
    assert together == alone
    talks = [[{"role": "user", "content": prompt}] for prompt in prompts]
    texts = [chat_text(tokenizer, talk, add_generation_prompt=True) for talk in talks]
    assert answers_to(model, tokenizer, talks, 4) == [reply.text for reply in write_after(model, tokenizer, texts, 4)]


def test_a_reply_ends_where_the_model_ends_it():
    def end_at_once(token_ids, logits):
        return torch.full_like(logits, float("-inf")).index_fill(1, torch.tensor([EndingBytes.eos_id]), 0.0)

    (reply,) = write_after(small_gpt(), EndingBytes(), ["a"], 5, [end_at_once])
    assert reply.ended and reply.text == ""


def test_mean_without_the_first_token():
    hidden = torch.randn(3, 5, 4)
    lengths = [5, 3, 1]
    padding_mask = torch.tensor([[t < n for t in range(5)] for n in lengths])
    pooled = all_but_the_first(hidden, padding_mask)
    for row, n in enumerate(lengths):
        want = hidden[row, 1:n].mean(0) if n > 1 else torch.zeros(4)
        assert torch.allclose(pooled[row], want, atol=1e-6)


def test_silent_heads_are_those_whose_columns_are_zero_and_come_back():
    model = small_gpt()
    token_ids = torch.randint(200, (2, 9))
    with torch.inference_mode():
        before = model(token_ids)
        with silent_heads(model, [(0, 1), (1, 0)]):
            silent = model(token_ids)
        assert torch.equal(model(token_ids), before)
        width = model.config.head_dim
        for layer, head in ((0, 1), (1, 0)):
            model.blocks[layer].attn.o_proj.weight[:, head * width : (head + 1) * width] = 0.0
        assert torch.allclose(model(token_ids), silent, atol=1e-5) and not torch.equal(silent, before)


@pytest.mark.parametrize("n_words", [1, 3, 5])
def test_every_subset_comes_once_and_its_bits_say_which(n_words):
    kept = word_subsets(n_words)
    assert {tuple(row) for row in kept.tolist()} == set(itertools.product([False, True], repeat=n_words))
    assert [sum(2**i for i, here in enumerate(row) if here) for row in kept.tolist()] == list(range(2**n_words))


def test_each_note_holds_its_answer_and_no_other_note_asks_the_same():
    assert len(NOTES) == 50 == len({note.text for note in NOTES})
    for note in NOTES:
        assert note.answer.lower() in note.text.lower(), note
        assert note.question.endswith("?") and note.other_words.endswith("?"), note
    asked = [text for note in NOTES for text in (note.question, note.other_words)]
    assert len(set(asked)) == 100
