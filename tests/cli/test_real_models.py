r"""generate, chat and eval with a model from a file: a small one that is made here, and SmolLM2 where it is."""

import json
import math

import pytest
import torch
from typer.testing import CliRunner

from minillm import pretrained
from minillm.cli import app, corpora, runs
from minillm.config import preset
from minillm.inference import evaluate
from minillm.inference.quantization.convert import is_quantized
from minillm.model.gpt import GPT
from minillm.text.byte_alphabet import BYTE_ALPHABET
from minillm.text.byte_level import ByteLevelBPE
from minillm.text.byte_tokenizer import ByteTokenizer
from minillm.text.chat_template import apply_chat_template
from minillm.training import checkpoint
from minillm.training.recipe import Recipe
from minillm.training.state import TrainingState

TEMPLATE = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def small_tokenizer(template: str | None = TEMPLATE) -> ByteLevelBPE:
    return ByteLevelBPE(["<|im_start|>", "<|im_end|>", *BYTE_ALPHABET], [], pre_tokenizer="smollm", special_ids=[0, 1],
                        bos_id=0, eos_id=1, chat_template=template)


@pytest.fixture
def loaded(monkeypatch):
    r"""Loading a model gives a small one, and notes what was asked for."""
    model = GPT(preset("tiny", vocab_size=258, max_seq_len=160), torch.Generator().manual_seed(5)).eval()
    with torch.no_grad():  # one that has learned nothing repeats its last token for ever
        model.lm_head.weight.mul_(0.2)
    asked = []

    def load(source, weights, device):
        asked.append((source, weights, device))
        return model, small_tokenizer(None if source == "no-talk" else TEMPLATE)

    monkeypatch.setattr(pretrained, "load", load)
    return model, asked


def minillm(*words: str, typed: str | None = None):
    r"""Run a command, with lines typed at it."""
    return CliRunner().invoke(app.build_app(), list(words), input=typed)


def turns_of(typed: str, *words: str) -> list[dict]:
    lines = minillm("chat", "--model", "m", "--max-new-tokens", "9", "--json", *words, typed=typed).stdout.splitlines()
    return [json.loads(line) for line in lines]


def test_an_answer_sees_the_talk_until_an_empty_line(loaded, monkeypatch):
    from minillm.inference import chat

    seen = []
    monkeypatch.setattr(chat, "stream_reply", lambda model, tokenizer, messages, **choices: (
        seen.append((messages, choices["temperature"])), iter(["an", "swer"]))[1])
    turns = turns_of("one\ntwo\n\nthree\n", "--system", "be brief", "--seed", "4")
    assert turns == [{"text": text, "reply": "answer", "seed": 4} for text in ("one", "two", "three")]
    system, answer = {"role": "system", "content": "be brief"}, {"role": "assistant", "content": "answer"}
    one, two, three = ({"role": "user", "content": text} for text in ("one", "two", "three"))
    assert seen == [([system, one], 0.2), ([system, one, answer, two], 0.2), ([system, three], 0.2)]
    turns_of("one\n", "--temperature", "0.7")
    assert seen[-1] == ([one], 0.7)


def test_chat_streams_what_the_model_answers(loaded):
    model, asked = loaded
    words = ("chat", "--model", "m", "--weights", "bf16", "--device", "cpu", "--seed", "3", "--temperature", "1",
             "--max-new-tokens", "9")
    (turn,) = (json.loads(line) for line in minillm(*words, "--json", typed="Tom\n").stdout.splitlines())
    shown = minillm(*words, typed="Tom\n").stdout
    assert asked == [("m", "bf16", "cpu")] * 2 and turn["reply"] and turn["text"] == "Tom"
    assert f"m answers. An empty line begins a new talk; Ctrl-D ends.\n\n> {turn['reply']}\n" in shown


@pytest.mark.parametrize("weights", ["bf16", "int8", "int4"])
def test_a_trained_model_is_held_as_asked(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = GPT(preset("tiny", vocab_size=258, max_seq_len=160), torch.Generator().manual_seed(5))
    checkpoint.save("runs/a", TrainingState(model, Recipe(dtype="fp32")), ByteTokenizer())
    _, held, _, _ = runs.open_model(None, None, weights, "cpu")
    assert is_quantized(held) == (weights != "bf16") and not held.training
    assert {parameter.dtype for parameter in held.parameters()} == {torch.bfloat16}
    said = json.loads(minillm("generate", "Tom", "--weights", weights, "--max-new-tokens", "5", "--json").stdout)
    assert said["texts"][0].startswith("Tom")
    assert "weights='int3'" in str(minillm("generate", "Tom", "--weights", "int3").exception)


def test_a_question_that_is_too_long_does_not_end_the_talk(loaded):
    turns = turns_of("x" * 200 + "\nTom\n")
    assert "shorten it" in turns[0]["error"] and "reply" in turns[1]
    assert "shorten it" in minillm("chat", "--model", "m", typed="x" * 200 + "\n").stdout


def test_a_model_that_does_not_answer_goes_on(loaded):
    words = ("--model", "no-talk", "--max-new-tokens", "5", "--seed", "1")
    result = minillm("chat", *words, "--json", typed="Tom had\n")
    (turn,) = (json.loads(line) for line in result.stdout.splitlines())
    assert turn["text"].startswith("Tom had") and "reply" not in turn
    report = json.loads(minillm("generate", "Tom had", *words, "--json").stdout)
    assert report == {"texts": [turn["text"]], "seed": 1, "model": "no-talk"}
    assert "--system is for a model that answers" in str(minillm("chat", *words, "--system", "x").exception)


def test_eval_measures_a_real_model_on_any_text(loaded, tmp_path):
    model, _ = loaded
    text = "Tom had a drum. Été!\n" * 20
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    words = ("eval", "--model", "m", "--text", str(tmp_path / "text.txt"), "--json")
    got = json.loads(minillm(*words).stdout)
    ids = list(text.encode())
    assert (got["model"], got["n_tokens"], got["n_bytes"]) == ("m", len(ids), len(ids)) and "checkpoint" not in got
    nats = evaluate.text_nats(model, [2 + i for i in ids], 160)
    assert math.isclose(got["nats_per_token"], nats / len(ids), rel_tol=1e-5)
    assert math.isclose(got["bits_per_byte"], nats / len(ids) / math.log(2), rel_tol=1e-5)
    assert math.isclose(got["perplexity"], math.exp(got["nats_per_token"]), rel_tol=1e-9)
    first = json.loads(minillm(*words, "--max-characters", "50").stdout)
    assert first["n_bytes"] == len(text[:50].encode())
    assert "give a text too" in str(minillm("eval", "--max-characters", "5").exception)
    assert "--text" in str(minillm("eval", "--model", "m").exception)


@pytest.mark.parametrize("command", ["generate", "chat", "eval"])
def test_two_models_are_one_too_many(command):
    text = ("--text", __file__) if command == "eval" else ()
    error = minillm(command, "--model", "m", "--checkpoint", "runs/a", *text).exception
    assert "these are two models" in str(error)


def test_a_large_vocabulary_goes_through_in_smaller_batches(monkeypatch):
    rows = []
    monkeypatch.setattr(evaluate, "text_token_nats", lambda model, ids, window, batch_size: (
        rows.append(batch_size), torch.ones(len(ids)))[1])
    for vocab_size, expected in ((258, 16), (49152, 2), (10**7, 1)):
        model = torch.nn.Identity()
        model.config = preset("tiny", vocab_size=vocab_size, max_seq_len=512)
        corpora.judge_text(model, small_tokenizer(), "Tom")
        assert rows[-1] == expected


@pytest.fixture(scope="module")
def smollm2():
    r"""The real model, for runs that are worth its weight."""
    from minillm.pretrained import weights_wheel

    if weights_wheel.find_wheel_file() is None:
        pytest.skip("SmolLM2's file is not installed: python -m minillm weights")
    return runs.open_model(None, "smollm2", "fp32", "cpu")[1:3]


def test_smollm2_answers(smollm2, monkeypatch):
    monkeypatch.setattr(pretrained, "load", lambda *source, **choices: smollm2)
    words = ("chat", "--model", "smollm2", "--temperature", "0", "--max-new-tokens", "24", "--json")
    result = minillm(*words, typed="What is the capital of France?\nAnd what is your name?\n")
    first, second = (json.loads(line)["reply"] for line in result.stdout.splitlines())
    assert "Paris" in first and "<|im_" not in first + second and second


def test_smollm2_reads_english_better_than_noise(smollm2, monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "load", lambda *source, **choices: smollm2)
    bits, texts = {}, {"plain": "The sun rises in the east and sets in the west.", "noise": "Xqj zzv kwp fgh bnm ytr."}
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        report = minillm("eval", "--model", "smollm2", "--text", str(tmp_path / name), "--json").stdout
        bits[name] = json.loads(report)["bits_per_byte"]
    assert 0 < 2 * bits["plain"] < bits["noise"]


def test_the_talk_of_smollm2_is_what_its_template_says(smollm2):
    from minillm.text.chat_template import read_default_system

    tokenizer = smollm2[1]
    system = read_default_system(tokenizer.chat_template)
    assert system and "SmolLM" in system
    ids = tokenizer.encode(apply_chat_template([{"role": "user", "content": "Hi"}], True, system))
    assert ids.count(tokenizer.bos_id) == 3 and ids.count(tokenizer.eos_id) == 2
