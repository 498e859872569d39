r"""The same adapter in peft and here, on the same random LLaMA: same logits, written by either side.

Over 250 seeds they differed by at most 3e-5; the adapters move them by more than 1.
"""

import json
import random
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from minillm import tuning
from minillm.pretrained import from_hf
from minillm.tuning.lora_linear import lora_layers
from minillm.tuning.peft_files import load_peft, save_peft
from tests.pretrained.parity import foreign_model, llama_sizes

NAMES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KINDS = {"plain": {}, "rsLoRA": {"use_rslora": True}, "DoRA": {"use_dora": True},
         "both": {"use_rslora": True, "use_dora": True}}


def random_pair(seed):
    r"""A LLaMA of transformers, ours of the same weights, and some token ids."""
    theirs = foreign_model("LlamaForCausalLM", seed, **llama_sizes(random.Random(seed)))
    return theirs, from_hf(theirs), torch.randint(43, (2, 11), generator=torch.Generator().manual_seed(seed))


def fill(model, seed):
    r"""Adapters that do something, whoever made them: factors and lengths drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "magnitude" in name:
                parameter.mul_(1 + 0.3 * noise.abs())
            elif "lora" in name:
                parameter.copy_(0.2 * noise)
    return model.eval()


def in_peft(theirs, seed, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = LoraConfig(**dict(r=2, lora_alpha=5, target_modules=NAMES, task_type="CAUSAL_LM") | options)
        return fill(get_peft_model(theirs, config), seed)


def logits_of(hf_model, token_ids):
    with torch.no_grad():
        return hf_model(token_ids).logits


@pytest.mark.parametrize("kind", KINDS)
def test_what_peft_writes_gives_the_same_logits_here(fresh_seed, tmp_path, kind):
    theirs, base, ids = random_pair(fresh_seed)
    targets = random.Random(fresh_seed).sample(NAMES, 3)
    plain = logits_of(theirs, ids)
    tuned = in_peft(theirs, fresh_seed, target_modules=targets, **KINDS[kind])
    tuned.save_pretrained(tmp_path)
    want = logits_of(tuned, ids)
    got = load_peft(base, tmp_path)
    torch.testing.assert_close(got(ids), want, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(tuning.merged(got)(ids), want, rtol=1e-3, atol=1e-3)
    with tuning.active(got):
        torch.testing.assert_close(got(ids), plain, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(want, plain, atol=1e-2)
    assert got.card.settings["targets"] == sorted(targets)


@pytest.mark.parametrize("kind", KINDS)
def test_what_we_write_gives_the_same_logits_in_peft(fresh_seed, tmp_path, kind):
    theirs, base, ids = random_pair(fresh_seed)
    options = KINDS[kind]
    method = tuning.dora if "use_dora" in options else tuning.lora
    targets = random.Random(fresh_seed).sample(NAMES, 3)
    tuned = fill(method(base, 2, 3.5, targets, 0.1, "use_rslora" in options, "ours").eval(), fresh_seed)
    save_peft(tuned, tmp_path / "new")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    loaded = PeftModel.from_pretrained(theirs, tmp_path / "new").eval()
    torch.testing.assert_close(logits_of(loaded, ids), tuned(ids), rtol=1e-3, atol=1e-3)
    again = load_peft(base, tmp_path / "new", "again")
    assert torch.equal(again(ids), tuned(ids)) and again.card.settings["alpha"] == 3.5


def test_some_layers_alone_and_a_second_adapter(fresh_seed, tmp_path):
    theirs = foreign_model("LlamaForCausalLM", fresh_seed, num_hidden_layers=3, hidden_size=16, intermediate_size=12,
                           num_attention_heads=2, num_key_value_heads=1)
    base, ids = from_hf(theirs), torch.randint(43, (1, 7))
    tuned = in_peft(theirs, fresh_seed, target_modules=["q_proj", "down_proj"], layers_to_transform=[0, 2])
    tuned.save_pretrained(tmp_path / "some")
    got = load_peft(base, tmp_path / "some", "some")
    assert len(lora_layers(got)) == 4
    torch.testing.assert_close(got(ids), logits_of(tuned, ids), rtol=1e-3, atol=1e-3)
    save_peft(got, tmp_path / "again")
    assert "model.layers.2.mlp.down_proj" in json.loads(
        (tmp_path / "again" / "adapter_config.json").read_text())["target_modules"]
    both = load_peft(load_peft(base, tmp_path / "again", "first"), tmp_path / "some", "second")
    with tuning.active(both, "second"):
        assert torch.equal(both(ids), got(ids))
    save_peft(both, tmp_path / "first", "first")
    files = [load_file(tmp_path / folder / "adapter_model.safetensors") for folder in ("some", "first")]
    assert files[0].keys() == files[1].keys() and all(torch.equal(files[0][key], files[1][key]) for key in files[0])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    r"""A base of ours, and a folder of peft's that fits it."""
    theirs, base, _ = random_pair(1)
    folder = tmp_path_factory.mktemp("peft") / "adapter"
    in_peft(theirs, 1).save_pretrained(folder)
    return base, json.loads((folder / "adapter_config.json").read_text()), load_file(
        folder / "adapter_model.safetensors")


def refuse(written, tmp_path, message, config=None, tensors=None):
    base, given, stored = written
    (tmp_path / "adapter_config.json").write_text(config if isinstance(config, str) else json.dumps(
        given | (config or {})))
    save_file(stored if tensors is None else tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=message):
        load_peft(base, tmp_path)


@pytest.mark.parametrize(("message", "config"), [
    ("peft_type='IA3': cannot be honoured", {"peft_type": "IA3"}),
    ("bias='all': cannot be honoured", {"bias": "all"}),
    ("init_lora_weights='pissa': cannot be honoured", {"init_lora_weights": "pissa"}),
    ("rank_pattern=.*is not known here", {"rank_pattern": {"q_proj": 4}}),
    ("modules_to_save=.*is not known here", {"modules_to_save": ["lm_head"]}),
    ("fan_in_fan_out=True: is not known here", {"fan_in_fan_out": True}),
    ("something_new=3: is not known here", {"something_new": 3}),
    ("r='two': a number belongs there", {"r": "two"}),
    ("r=True: a number belongs there", {"r": True}),
    ("does not fit this model.*rank=0", {"r": 0}),
    ("and this model wants", {"r": 1}),
    ("missing.*magnitude", {"use_dora": True}),
    ("no JSON", "{"),
    ("a JSON object belongs there", "[]"),
])
def test_options_that_cannot_be_honoured_are_refused(written, tmp_path, message, config):
    refuse(written, tmp_path, message, config)


def test_weights_that_do_not_fit_are_refused(written, tmp_path):
    _, _, stored = written
    first = min(stored)
    refuse(written, tmp_path, "missing", tensors={key: tensor for key, tensor in stored.items() if key != first})
    refuse(written, tmp_path, "is no factor of a matrix", tensors=stored | {
        "base_model.model.lm_head.weight": stored[first].clone()})
    refuse(written, tmp_path, "does not fit this model", tensors={
        key.replace("layers.0", "layers.77"): tensor for key, tensor in stored.items()})
    refuse(written, tmp_path, "holds nothing", tensors={})
    (tmp_path / "adapter_model.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="no safetensors, or damaged"):
        load_peft(written[0], tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(ValueError, match="is not opened: it could run anything"):
        load_peft(written[0], tmp_path)
    with pytest.raises(ValueError, match="adapter_config.json: no such file"):
        load_peft(written[0], tmp_path / "nowhere")


def test_models_that_peft_s_files_have_no_names_for(written, tmp_path):
    base = written[0]
    with pytest.raises(ValueError, match="is no tuned model"):
        save_peft(base, tmp_path)
    with pytest.raises(ValueError, match="is tuned by prefix_tuning, too"):
        save_peft(tuning.lora(tuning.prefix_tuning(base, 2), 1), tmp_path / "new")
    with pytest.raises(ValueError, match=r"name='other': the model has the adapters \['default'\]"):
        save_peft(tuning.lora(base, 1), tmp_path / "new", "other")
    gpt2 = from_hf(foreign_model("GPT2LMHeadModel", 0, n_embd=16, n_head=2, n_layer=1))
    with pytest.raises(ValueError, match="model.config.position=.*only what is built like LLaMA"):
        save_peft(tuning.lora(gpt2, 1), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        save_peft(tuning.lora(base, 1), tmp_path)
