r"""Everything that shapes a text, together: in a padded batch, one by one, and from text to text."""

import re

import pytest
import torch

from minillm.config import Rope, preset
from minillm.inference.beam import beam_search
from minillm.inference.generate import generate
from minillm.inference.left_padding import left_pad
from minillm.inference.steering import PLAIN, Steering
from minillm.inference.stopping import cut_at_stop
from minillm.inference.text import beam_texts, steered, stream_text
from minillm.model.gpt import GPT
from minillm.text.bpe import BPETokenizer
from minillm.text.byte_tokenizer import ByteTokenizer
from minillm.text.characters import CharTokenizer
from minillm.text.words import WordTokenizer

TEXT = "the cat sat on the mat, and the dog sat on the cat. " * 9
LETTERS = CharTokenizer.from_text(TEXT + "\n")
WORDS = WordTokenizer(["the", "cat", "sat", "on", "mat", ",", "and", "dog", "."])
TOKENIZERS = {"characters": LETTERS, "bytes": ByteTokenizer(), "bpe": BPETokenizer.from_text(TEXT, 300), "words": WORDS}
STEERINGS = {
    "repetition": Steering(repetition_penalty=1.7),
    "counts": Steering(frequency=0.4, presence=0.6),
    "no-repeat": Steering(no_repeat_ngram=2),
    "least length": Steering(min_new_tokens=7),
    "pattern": Steering(regex=r" ?[a-z]+( [a-z]+)*\."),
    "all": Steering(repetition_penalty=1.2, frequency=0.1, presence=0.2, no_repeat_ngram=4, min_new_tokens=1,
                    regex=r"( ?[a-z]+,?)*\."),
}  # fmt: skip


def make(seed, vocab_size, max_seq_len=64):
    torch.manual_seed(seed)
    model = GPT(preset("tiny", vocab_size=vocab_size, d_model=16, n_heads=2, n_kv_heads=1, head_dim=8, position=Rope(),
                       max_seq_len=max_seq_len)).eval()
    for p in model.parameters():
        p.data += 0.3 * torch.randn_like(p)
    return model


@pytest.mark.parametrize("steering", STEERINGS.values(), ids=STEERINGS)
@pytest.mark.parametrize("kind", ["characters", "bpe", "words"])
def test_a_padded_batch_equals_one_by_one(kind, steering, fresh_seed):
    tokenizer = TOKENIZERS[kind]
    model = make(fresh_seed, tokenizer.vocab_size)
    begin = [tokenizer.bos_id] if kind == "words" else []
    prompts = [begin + tokenizer.encode(text) for text in ("the", "the cat sat on the mat, and", "the dog")]

    def greedy(token_ids, mask):
        stop_ids, processors = steered(steering, tokenizer, token_ids.shape[1], 12)
        out = generate(model, token_ids, 12, temperature=0.0, padding_mask=mask, processors=processors,
                       stop_ids=stop_ids)
        return out[:, token_ids.shape[1] :]

    def beams(token_ids, mask):
        stop_ids, processors = steered(steering, tokenizer, token_ids.shape[1], 6)
        found, scores = beam_search(model, token_ids, 6, n_beams=3, padding_mask=mask, processors=processors,
                                    stop_ids=stop_ids)
        return torch.where(scores[:, :, None] > float("-inf"), found[:, :, token_ids.shape[1] :], -1)[:, 0]

    for write in (greedy, beams):
        together = write(*left_pad(prompts))
        for prompt, row in zip(prompts, together, strict=True):
            assert torch.equal(write(*left_pad([prompt]))[0], row)


def test_each_wish_changes_what_is_written():
    model = make(3, LETTERS.vocab_size)
    plain = "".join(stream_text(model, LETTERS, "the ", 40, temperature=0.0))
    runs = {plain[i : i + 3] for i in range(len(plain) - 2)}
    assert len(runs) < 38  # it repeats itself
    other = {name: "".join(stream_text(model, LETTERS, "the ", 40, temperature=0.0, steering=steering))
             for name, steering in STEERINGS.items() if name in ("repetition", "counts", "no-repeat", "pattern")}
    assert all(text != plain for text in other.values())
    whole = "the " + other["no-repeat"]
    assert len({whole[i : i + 2] for i in range(len(whole) - 1)}) == len(whole) - 1
    assert re.fullmatch(STEERINGS["pattern"].regex, other["pattern"])
    assert "".join(stream_text(model, LETTERS, "the ", 40, temperature=0.0, steering=PLAIN)) == plain


def test_the_prompt_counts_for_repetition_and_not_for_frequency(fresh_seed):
    logits, ids = torch.ones(1, 5), torch.tensor([[1, 2, 3, 3]])
    (punish,) = Steering(repetition_penalty=2.0).processors(2, [])
    assert punish(ids, logits).tolist() == [[1.0, 0.5, 0.5, 0.5, 1.0]]
    (punish,) = Steering(frequency=0.25, presence=0.5).processors(2, [])
    assert punish(ids, logits).tolist() == [[1.0, 1.0, 1.0, 0.0, 1.0]]
    assert PLAIN.processors(2, [0]) == []


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_stop_strings_and_patterns_from_text_to_text(kind, fresh_seed):
    tokenizer = TOKENIZERS[kind]
    model = make(fresh_seed, tokenizer.vocab_size)
    chance = dict(temperature=1.5)

    def tell(steering):
        generator = torch.Generator().manual_seed(fresh_seed)
        return "".join(stream_text(model, tokenizer, "the", 30, **chance, generator=generator, steering=steering))

    free = tell(PLAIN)
    stops = tuple(stop for stop in (free[7:10], free[12:14], "zzz") if stop)  # the text may end before
    assert tell(Steering(stops=stops)) == cut_at_stop(free, stops)
    pattern = r"( [a-z]{2,3})+\."
    for seed in range(4):
        generator = torch.Generator().manual_seed(fresh_seed + seed)
        told = "".join(stream_text(model, tokenizer, "the", 30, **chance, generator=generator,
                                   steering=Steering(regex=pattern)))
        assert re.fullmatch(pattern, told)


def test_beams_from_text_to_text(fresh_seed):
    model = make(fresh_seed, WORDS.vocab_size)
    texts = beam_texts(model, WORDS, "the cat", 8, n_beams=5, length_penalty=0.5)
    scores = [score for _, score in texts]
    assert len(texts) == 5 and scores == sorted(scores, reverse=True) and len({text for text, _ in texts}) == 5
    ids = torch.tensor([[WORDS.bos_id, *WORDS.encode("the cat")]])
    found, _ = beam_search(model, ids, 8, n_beams=5, length_penalty=0.5, stop_ids=[WORDS.eos_id], pad_id=WORDS.eos_id)
    assert ["the cat" + text for text, _ in texts] == [WORDS.decode(row) for row in found[0].tolist()]
    matching = beam_texts(model, WORDS, "the cat", 8, n_beams=3, steering=Steering(regex=" sat on the (mat|dog)"))
    assert {text for text, _ in matching} == {" sat on the mat", " sat on the dog"}
    long = beam_texts(make(fresh_seed, WORDS.vocab_size, max_seq_len=6), WORDS, "the cat", None, n_beams=2)
    assert all(len(text.split()) <= 4 for text, _ in long)  # three tokens are read, the sixth is the last that is


def test_what_leaves_no_token_is_refused_and_not_written(fresh_seed):
    model = make(fresh_seed, LETTERS.vocab_size)
    ids = torch.tensor([LETTERS.encode("the ")])
    stop_ids, processors = steered(Steering(no_repeat_ngram=1, regex="aab|ccd"), LETTERS, 4, 3)
    for temperature in (0.0, 1.0):
        with pytest.raises(ValueError, match="forbid every token of row 0"):
            generate(model, ids, 3, temperature=temperature, processors=processors, stop_ids=stop_ids)
    _, scores = beam_search(model, ids, 3, n_beams=2, processors=processors, stop_ids=stop_ids)
    assert bool((scores == float("-inf")).all())  # a beam may come to nothing: so here all do


def test_a_finished_row_may_have_nothing_left(fresh_seed):
    model = make(fresh_seed, LETTERS.vocab_size)
    stop = int(generate(model, torch.tensor([[1], [2]]), 1, temperature=0.0)[0, 1])

    def nothing_after_the_stop(token_ids, logits):
        over = (token_ids[:, 1:] == stop).any(dim=1, keepdim=True)
        return logits.masked_fill(over, float("-inf"))

    for temperature in (0.0, 1.0):
        out = generate(model, torch.tensor([[1], [1]]), 6, temperature=temperature, top_k=1, pad_id=9,
                       processors=[nothing_after_the_stop], stop_ids=[stop])
        assert out.tolist() == [[1, stop, 9, 9, 9, 9, 9]] * 2
