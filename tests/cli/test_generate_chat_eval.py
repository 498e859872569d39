r"""The commands that use a trained model: generate, chat and eval."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from minillm.cli import app, chat, runs
from minillm.cli.corpora import StoryCorpus
from minillm.config import preset
from minillm.model.gpt import GPT
from minillm.text.stories import StoryLanguage
from minillm.training import checkpoint
from minillm.training.recipe import Recipe
from minillm.training.state import TrainingState

LANGUAGE = StoryLanguage()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    r"""A folder with two runs, of which `runs/b` is the newer; neither has learned anything."""
    folder = tmp_path_factory.mktemp("trained")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for name in ("a", "b"):
            corpus, generator = StoryCorpus(), torch.Generator().manual_seed(1)
            config = preset("tiny", vocab_size=corpus.tokenizer.vocab_size, max_seq_len=corpus.max_seq_len)
            model = GPT(config, generator)
            with torch.no_grad():  # a model that has learned nothing repeats its last word for ever
                model.lm_head.weight.mul_(0.2)
            state = TrainingState(model, Recipe(dtype="fp32"))
            checkpoint.save(f"runs/{name}", state, corpus.tokenizer, about={"settings": {"corpus": "stories"}})
        os.utime("runs/a/checkpoint.json", (1, 1))
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(autouse=True)
def there(trained, monkeypatch):
    r"""Every test runs in that folder."""
    monkeypatch.chdir(trained)


def minillm(*words: str, typed: str | None = None):
    r"""Run a command, with lines typed at it."""
    return CliRunner().invoke(app.build_app(), list(words), input=typed)


def test_generate_writes_what_its_seed_says():
    options = ("generate", "Tom had", "--n", "3", "--max-new-tokens", "6", "--seed", "4")
    first, second = (json.loads(minillm(*options, "--json").stdout) for _ in range(2))
    assert first == second and first["seed"] == 4 and Path(first["checkpoint"]) == Path("runs/b")
    assert len(first["texts"]) == 3 and all(text.startswith("Tom had") for text in first["texts"])
    assert minillm(*options).stdout == "".join(text + "\n" for text in first["texts"])
    other = json.loads(minillm(*options[:-1], "5", "--json", "--checkpoint", "runs/a").stdout)
    assert other["texts"] != first["texts"] and Path(other["checkpoint"]) == Path("runs/a")
    fresh = [json.loads(minillm("generate", "--json", "--max-new-tokens", "1").stdout)["seed"] for _ in range(2)]
    assert fresh[0] != fresh[1]


def test_generate_hands_the_sampling_options_on():
    options = ("generate", "Tom had", "--max-new-tokens", "8")
    greedy = {minillm(*options, "--temperature", "0", "--seed", str(i)).stdout for i in range(2)}
    likeliest = {minillm(*options, "--top-k", "1", "--seed", str(i)).stdout for i in range(2)}
    assert len(greedy) == 1 and greedy == likeliest
    assert likeliest == {minillm(*options, "--top-p", "0.000001").stdout}
    assert likeliest == {minillm(*options, "--min-p", "1").stdout}
    assert "top_p=2.0" in str(minillm(*options, "--top-p", "2").exception)


def test_generate_hands_wishes_on():
    def texts(*words):
        return json.loads(minillm("generate", "Tom had", "--seed", "4", "--json", *words).stdout)["texts"]

    pattern = r" a (tiny|red|old) \w+( \w+)*\."
    (told,) = texts("--regex", pattern, "--max-new-tokens", "12")
    assert re.fullmatch("Tom had" + pattern, told)
    free = texts("--max-new-tokens", "12")[0]
    stop = free.removeprefix("Tom had")[5:9]
    assert texts("--max-new-tokens", "12", "--stop", stop, "--stop", "xyzzy") == [free[: free.index(stop, 7)]]
    for words in (("--no-repeat-ngram", "1"), ("--presence-penalty", "99")):
        (told,) = texts("--max-new-tokens", "12", "--temperature", "0", *words)
        written = LANGUAGE.tokenizer.encode(told.removeprefix("Tom had"))
        assert len(set(written)) == len(written)
    repeated = {tuple(texts("--max-new-tokens", "9", "--temperature", "0", *words)) for words in (
        (), ("--repetition-penalty", "50"), ("--frequency-penalty", "-9"))}
    assert len(repeated) > 1
    usual = {tuple(texts("--max-new-tokens", "9", "--typical-p", "1e-9", "--seed", str(seed))) for seed in range(2)}
    assert len(usual) == 1  # one token is left at each place, so nothing is left to chance
    assert len(texts("--min-new-tokens", "20", "--max-new-tokens", "20")[0].split()) > 10


def test_beams_come_best_first():
    options = ("generate", "Tom had", "--max-new-tokens", "4", "--beams", "3", "--json")
    three = [json.loads(minillm(*options, "--n", "3", "--seed", str(i)).stdout)["texts"] for i in range(2)]
    assert three[0] == three[1] and len(set(three[0])) == 3
    assert json.loads(minillm(*options).stdout)["texts"] == three[0][:1]
    assert "use at least --beams 4" in str(minillm(*options, "--n", "4").exception)


def test_chat_takes_wishes_too():
    lines = minillm("chat", "--json", "--regex", " a tiny (cat|drum)", typed="Tom had\nTom left\n").stdout.splitlines()
    for line, beginning in zip(lines, ("Tom had", "Tom left"), strict=True):
        turn = json.loads(line)
        assert re.fullmatch(beginning + " a tiny (cat|drum)", turn["text"])


def test_a_word_that_the_model_does_not_know_is_named():
    result = minillm("generate", "Tom had a elephant")
    assert result.exit_code != 0 and "'elephant'" in str(result.exception)


def test_chat_tells_on_judges_and_survives_unknown_words():
    result = minillm("chat", "--seed", "2", typed="Tom had a\nxyzzy\n\n")
    assert result.exit_code == 0, result.exception
    assert "> Tom had a" in result.stdout and "'xyzzy'" in result.stdout
    assert result.stdout.count("(not right: word ") + result.stdout.count("(right in every word)") == 2
    lines = minillm("chat", "--json", "--seed", "2", typed="Tom had a\nxyzzy\n").stdout.splitlines()
    turns = [json.loads(line) for line in lines]
    assert turns[0]["text"].startswith("Tom had a") and turns[0]["text"] in result.stdout
    verdict = LANGUAGE.check(turns[0]["text"])
    assert turns[0]["ok"] == verdict.ok and verdict.why in turns[0]["verdict"]
    assert turns[1]["text"] == "xyzzy" and "'xyzzy'" in turns[1]["error"]


def test_chat_judges_by_the_story_checker():
    import random

    story = LANGUAGE.sample(random.Random())
    assert chat.judged(LANGUAGE, story) == {"ok": True, "verdict": "(right in every word)"}
    wrong = chat.judged(LANGUAGE, story[:-1])
    assert not wrong["ok"] and LANGUAGE.check(story[:-1]).why in wrong["verdict"]
    assert chat.judged(None, story) == {}


def test_eval_measures_stories():
    options = ("eval", "--n-stories", "20", "--n-samples", "10", "--seed", "3")
    got = json.loads(minillm(*options, "--json").stdout)
    assert got["floor_nats_per_story"] == LANGUAGE.entropy() < got["nats_per_story"]
    assert got["n_samples"] == 10 and got["n_stories"] == 20 and got["corpus"] == "stories"
    assert 0 <= got["valid_fraction"] <= 1
    lines = minillm(*options).stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(got)


def test_without_a_run_the_way_to_one_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in ("generate", "chat", "eval"):
        assert "train one first: python -m minillm train" in str(minillm(command).exception)
    assert runs.find_run(Path("anywhere")) == Path("anywhere")


@pytest.mark.parametrize("command", ["train", "generate", "chat", "eval"])
def test_every_command_has_help_json_seed_and_device(command):
    text = minillm(command, "--help").stdout
    assert all(option in text for option in ("--json", "--seed", "--device", "--help"))
