r"""generate and chat by the fast path: the same text, and a way around it."""

import json

import pytest
import torch
from typer.testing import CliRunner

from minillm import pretrained
from minillm.cli import app
from minillm.config import preset
from minillm.inference.fast.decoder import FastDecoder
from minillm.model.gpt import GPT
from minillm.text.byte_alphabet import BYTE_ALPHABET
from minillm.text.byte_level import ByteLevelBPE


@pytest.fixture
def made(monkeypatch):
    r"""Loading a model gives a small LLaMA; which of them were made fast."""
    tokenizer = ByteLevelBPE(
        ["<|im_start|>", "<|im_end|>", *BYTE_ALPHABET], [], pre_tokenizer="smollm", special_ids=[0, 1], bos_id=0,
        eos_id=1)
    model = GPT(preset("tiny-llama", vocab_size=258), torch.Generator().manual_seed(5)).eval()
    monkeypatch.setattr(pretrained, "load", lambda source, weights, device: (model, tokenizer))
    makers = []
    init = FastDecoder.__init__
    monkeypatch.setattr(FastDecoder, "__init__", lambda self, given: makers.append(given) or init(self, given))
    return makers


def written(*words: str, typed: str | None = None) -> str:
    result = CliRunner().invoke(app.build_app(), [*words, "--model", "m", "--temperature", "0", "--json"], input=typed)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[0])


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_the_text_is_the_same_with_and_without(command, made):
    words = ["generate", "ab", "--seed", "1"] if command == "generate" else ["chat", "--seed", "1"]
    typed = None if command == "generate" else "ab\n"
    texts = [written(*words, "--max-new-tokens", "12", *more, typed=typed) for more in ([], ["--fast"], ["--no-fast"])]
    assert texts[0] == texts[1] == texts[2]
    assert len(made) == 2  # it is the default


def test_a_beam_search_has_caches_of_its_own_and_no_use_for_it(made):
    written("generate", "ab", "--beams", "2", "--max-new-tokens", "3")
    assert made == []
