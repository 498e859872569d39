r"""train --lora, and --adapter elsewhere, with small models: what is learned, kept, refused, and put on again."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from minillm import pretrained, tuning
from minillm.cli import adapters, app, corpora
from minillm.config import Glu, preset
from minillm.inference.fast.decoder import FastDecoder
from minillm.inference.quantization.convert import is_quantized, quantize_model
from minillm.inference.quantization.linears import Int4Linear
from minillm.model.gpt import GPT
from minillm.pretrained.loading import held_as, load_model
from minillm.text.byte_alphabet import BYTE_ALPHABET
from minillm.text.byte_level import ByteLevelBPE
from minillm.text.byte_tokenizer import ByteTokenizer
from minillm.training import checkpoint
from minillm.training.recipe import Recipe
from minillm.training.state import TrainingState
from minillm.tuning.card import small_tensors
from minillm.tuning.methods import METHODS

TEMPLATE = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
FAST = ("--dtype", "fp32", "--batch-size", "4", "--threads", "1", "--seed", "3", "--device", "cpu")


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    r"""Each test has a folder to itself, with a real model in it that is a small one, and a checkpoint."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(corpora, "N_STORIES", 20)
    monkeypatch.setattr(corpora, "N_SAMPLES", 5)
    config = preset("tiny-llama", vocab_size=258, max_seq_len=96, d_model=64, n_heads=4, n_kv_heads=2, head_dim=16,
                    ffn=Glu(96))
    model = GPT(config, torch.Generator().manual_seed(5)).eval()
    for block in model.blocks:  # fresh blocks add nothing yet
        for layer in (block.attn.o_proj, block.ffn.down_proj):
            torch.nn.init.normal_(layer.weight, std=0.1, generator=torch.Generator().manual_seed(6))
    tokenizer = ByteLevelBPE(["<|im_start|>", "<|im_end|>", *BYTE_ALPHABET], [], pre_tokenizer="smollm",
                             special_ids=[0, 1], bos_id=0, eos_id=1, chat_template=TEMPLATE)
    monkeypatch.setattr(pretrained, "load", lambda source, weights, device: (model, tokenizer))
    before = torch.get_num_threads()
    yield model
    torch.set_num_threads(before)


def minillm(*words: str | Path, typed: str | None = None):
    return CliRunner().invoke(app.build_app(), [str(word) for word in words], input=typed)


def report(*words: str | Path, typed: str | None = None) -> dict:
    result = minillm(*words, "--json", typed=typed)
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout.splitlines()[0])


def refusal(*words: str | Path) -> str:
    result = minillm(*words)
    assert isinstance(result.exception, ValueError), (result.output, result.exception)
    return str(result.exception)


@pytest.fixture
def talks_file(tmp_path):
    r"""Twenty talks with one answer."""
    path = tmp_path / "talks.jsonl"
    path.write_text("".join(json.dumps({"messages": [{"role": "user", "content": f"{i}?"},
                                                     {"role": "assistant", "content": "aaaa"}]}) + "\n"
                            for i in range(20)), encoding="utf-8")
    return path


def test_a_small_part_learns_an_answer_and_is_put_on_again(talks_file, own_folder):
    numbers = {name: tensor.clone() for name, tensor in own_folder.state_dict().items()}
    got = report("train", "--lora", "--model", "m", "--corpus", talks_file, "--steps", "40", "--rank", "4",
                 "--alpha", "8", "--out", "a.safetensors", "--learning-rate", "0.02", *FAST)
    assert (got["method"], got["rank"], got["alpha"], got["steps"], got["seed"]) == ("lora", 4, 8, 40, 3)
    assert got["nats_after"] < 0.5 * got["nats_before"] and len(got["losses"]) == 40
    assert all(torch.equal(tensor, numbers[name]) for name, tensor in own_folder.state_dict().items())
    linears = [module for name, module in own_folder.named_modules()
               if "blocks" in name and type(module) is torch.nn.Linear]
    assert got["trained"] == sum(4 * (layer.in_features + layer.out_features) for layer in linears)
    assert Path("a.safetensors").stat().st_size == got["bytes"] < 4 * got["trained"] + 20_000
    words = ("--temperature", "0", "--max-new-tokens", "8")
    plain = report("chat", "--model", "m", *words, typed="7?\n")["reply"]
    answer = report("chat", "--model", "m", "--adapter", "a.safetensors", *words, typed="7?\n")["reply"]
    assert answer == "aaaa" != plain


def test_a_merged_adapter_is_as_fast_as_the_model(talks_file, monkeypatch):
    report("train", "--lora", "--model", "m", "--corpus", talks_file, "--steps", "3", "--out", "a.safetensors", *FAST)
    makers, init = [], FastDecoder.__init__
    monkeypatch.setattr(FastDecoder, "__init__", lambda self, given: makers.append(given) or init(self, given))
    words = ("generate", "ab", "--model", "m", "--adapter", "a.safetensors", "--temperature", "0",
             "--max-new-tokens", "9")
    fast, slow = (report(*words, choice) for choice in ("--fast", "--no-fast"))
    assert fast["texts"] == slow["texts"] and fast["model"] == "m + a.safetensors"
    assert len(makers) == 1 and type(makers[0]) is GPT and not hasattr(makers[0], "card")
    for weights in ("bf16", "int8", "int4"):
        assert report(*words, "--weights", weights)["texts"]


def test_what_is_exported_has_the_adapter_in_its_weights(talks_file, own_folder):
    words = ("--model", "m", "--corpus", talks_file, "--steps", "9", "--learning-rate", "0.02", *FAST)
    report("train", "--lora", *words, "--out", "a.safetensors")
    report("export", "folder", "--to", "hf", "--model", "m", "--adapter", "a.safetensors")
    token_ids = torch.arange(2, 30)[None]
    wanted = tuning.load(own_folder, "a.safetensors")(token_ids)
    assert not torch.allclose(own_folder(token_ids), wanted, atol=1e-2)
    torch.testing.assert_close(load_model("folder", device="cpu")(token_ids), wanted, atol=1e-3, rtol=1e-3)
    report("train", "--qlora", *words, "--out", "q.safetensors")
    assert "cannot be merged" in refusal("export", "other", "--to", "gguf", "--model", "m", "--adapter",
                                         "q.safetensors")


def test_without_an_out_a_new_file_each_time_and_lines_to_read(talks_file):
    words = ("train", "--lora", "--model", "m", "--corpus", talks_file, "--steps", "2", *FAST)
    lines = minillm(*words).stdout.splitlines()
    assert lines[0].endswith("2 steps, seed 3") and "before" in lines[1]
    assert "now try: python -m minillm chat --model m --adapter runs/talks.safetensors" in lines[2]
    assert report(*words)["out"] == "runs/talks-2.safetensors"
    assert "is there already" in refusal(*words, "--out", "runs/talks.safetensors")
    assert ".safetensors" in refusal(*words, "--out", "runs/folder")
    assert "give another place" in refusal(*words, "--out", "talks.jsonl/x.safetensors")


def test_activations_computed_twice_change_nothing(talks_file):
    words = ("train", "--lora", "--model", "m", "--corpus", talks_file, "--steps", "4", *FAST)
    kept, again = (report(*words, choice) for choice in ("--keep", "--recompute"))
    assert again["losses"] == pytest.approx(kept["losses"], abs=1e-4) and kept["losses"][-1] != kept["losses"][0]


def test_few_examples_leave_none_to_judge_by(tmp_path):
    (tmp_path / "few.jsonl").write_text('{"text": "abc"}\n{"text": "abd"}\n', encoding="utf-8")
    words = ("train", "--lora", "--model", "m", "--corpus", "few.jsonl", "--steps", "2", *FAST)
    assert report(*words)["nats_after"] is None
    assert "too few examples" in minillm(*words).stdout


def test_a_checkpoint_of_our_own_learns_a_text(tmp_path):
    model = GPT(preset("tiny", vocab_size=256, max_seq_len=40), torch.Generator().manual_seed(5))
    checkpoint.save("runs/a", TrainingState(model, Recipe(dtype="fp32")), ByteTokenizer())
    (tmp_path / "verse.txt").write_text("a b c d e f g\n" * 40, encoding="utf-8")
    got = report("train", "--lora", "--corpus", "verse.txt", "--targets", "o_proj, down_proj", "--steps", "20",
                 "--learning-rate", "0.02", *FAST)
    assert got["model"] == "runs/a" and got["targets"] == ["o_proj", "down_proj"]
    assert got["nats_after"] < got["nats_before"]
    judged = [report("eval", "--text", "verse.txt", *more)["nats_per_token"] for more in (
        (), ("--adapter", got["out"]))]
    assert judged[1] < judged[0]


def test_qlora_keeps_its_base_in_codes_and_stays_beside_it(talks_file):
    got = report("train", "--qlora", "--model", "m", "--corpus", talks_file, "--steps", "30", "--learning-rate", "0.02",
                 "--out", "q.safetensors", *FAST)
    assert got["method"] == "qlora" and got["nats_after"] < 0.7 * got["nats_before"]
    words = ("generate", "ab", "--model", "m", "--adapter", "q.safetensors", "--temperature", "0",
             "--max-new-tokens", "5")
    for weights in ("fp32", "bf16"):
        assert report(*words, "--weights", weights)["texts"]
    assert "cannot be merged" in refusal(*words, "--weights", "int8")


@pytest.mark.parametrize("method", sorted(METHODS))
def test_what_any_method_made_can_be_put_on(method, own_folder):
    tuned = METHODS[method](own_folder)
    with torch.no_grad():
        for i, tensor in enumerate(small_tensors(tuned).values()):
            tensor.copy_(0.2 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(i)))
    tuning.save(tuned, "x.safetensors")
    token_ids = torch.arange(2, 22)[None]
    put_on = adapters.with_adapter(own_folder, Path("x.safetensors"), "fp32")
    wanted = tuned.eval()(token_ids)
    torch.testing.assert_close(put_on(token_ids), wanted, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(own_folder(token_ids), wanted, atol=1e-2)
    assert hasattr(put_on, "card") == (method not in ("lora", "dora"))
    words = ("generate", "ab", "--model", "m", "--adapter", "x.safetensors", "--max-new-tokens", "5")
    for weights in ("fp32", "bf16"):
        assert report(*words, "--weights", weights)["texts"]


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_a_change_smaller_than_the_steps_of_four_bits_is_not_rounded_off(method, own_folder):
    coarse = quantize_model(own_folder, "int4", torch.float32)
    with torch.no_grad():  # a base that stood in 4 bits before, as files of real models do
        for name, layer in coarse.named_modules():
            if isinstance(layer, Int4Linear):
                own_folder.get_submodule(name).weight.copy_(layer.weight)
    tuned, token_ids = METHODS[method](own_folder), torch.arange(2, 22)[None]
    with torch.no_grad():
        for name, tensor in small_tensors(tuned).items():
            if name.endswith("lora_b"):
                tensor.copy_(0.02 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(7)))
    tuning.save(tuned, "x.safetensors")
    put_on = adapters.with_adapter(own_folder, Path("x.safetensors"), "int4")
    assert is_quantized(put_on)
    with torch.no_grad():
        wanted = tuned(token_ids) - own_folder(token_ids)
        off = [float((model(token_ids) - held_as(own_folder, "int4")(token_ids) - wanted).norm() / wanted.norm())
               for model in (put_on, held_as(tuning.merged(tuned), "int4"))]
    assert off[0] < 0.1 and off[1] > 5 * off[0]


@pytest.mark.parametrize(("words", "message"), [
    (("--lora", "--model", "m"), "on what?"), (("--lora", "--model", "m", "--corpus", "stories"), "on what?"),
    (("--rank", "4"), "--rank: is not for training a whole model; add --lora"),
    (("--model", "m", "--targets", "q_proj"), "--model, --targets: is not for training a whole model"),
    (("--lora", "--preset", "tiny", "--parallel", "ddp"), "--preset, --parallel: is not for --lora"),
    (("--lora", "--model", "m", "--corpus", "bad.jsonl"), "--corpus bad.jsonl: line 2: "),
    (("--lora", "--model", "m", "--corpus", "none.txt"), "does not exist"),
    (("--lora", "--model", "m", "--corpus", "fine.jsonl", "--targets", "wq"), "'wq'"),
    (("--lora", "--model", "m", "--corpus", "fine.jsonl", "--rank", "500"), "rank=500"),
    (("--lora", "--model", "m", "--corpus", "fine.jsonl", "--learning-rate", "-1"), "learning_rate=-1"),
    (("--lora", "--model", "m", "--checkpoint", "runs/a", "--corpus", "fine.jsonl"), "these are two models")])
def test_wrong_options_are_refused_clearly(words, message, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"text": "abc"}\n{"texts": "abd"}\n', encoding="utf-8")
    (tmp_path / "fine.jsonl").write_text('{"text": "abc"}\n', encoding="utf-8")
    assert message in refusal("train", *words, "--steps", "1")
    assert not list(tmp_path.glob("**/*.safetensors"))


def test_a_file_that_is_no_adapter_is_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"no")
    for command in (("generate", "ab"), ("chat",), ("eval", "--text", __file__)):
        assert "x.safetensors" in refusal(*command, "--model", "m", "--adapter", "x.safetensors")
    tuned = tuning.lora(GPT(preset("tiny-llama", vocab_size=99)), 2)
    tuning.save(tuned, tmp_path / "other.safetensors")
    assert "other.safetensors" in refusal("generate", "ab", "--model", "m", "--adapter", "other.safetensors")
