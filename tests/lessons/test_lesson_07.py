r"""Lesson 07's tools: what they measure, on cases that can be worked out by hand; and whose code a training runs."""

import re
from itertools import product

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from minillm.config import Glu, Mlp, preset
from minillm.course import mine, shelf
from minillm.course.lessons.lesson_07.shifting import SHIFT_ROWS, found_in_the_wild
from minillm.course.scenes import model_explorer, model_pictures
from minillm.course.scenes.copy_watch import CopyWatch, finding_weights
from minillm.course.scenes.dependencies import dependency_table
from minillm.layers.recorder import report
from minillm.model.gpt import GPT
from minillm.text import batches
from minillm.text.stories import StoryLanguage
from minillm.training.loop import train
from minillm.training.recipe import Recipe

# Everything of the lessons that one step of training a GPT on stories goes through.
USED = (
    "layers.softmax.softmax", "layers.softmax.log_softmax", "layers.pairwise.broadcast_pairwise",
    "layers.masks.causal_mask", "layers.sdpa.attention_weights", "layers.sdpa.sdpa", "layers.heads.split_heads",
    "layers.heads.merge_heads", "layers.loss.cross_entropy", "model.block.block_forward", "model.gpt.gpt_forward",
    "model.init.init_weights", "text.batches.shift_rows",
)  # fmt: skip


@pytest.fixture(autouse=True)
def empty_shelf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "IN_MEMORY", shelf.Shelf())


@pytest.fixture(scope="module")
def language() -> StoryLanguage:
    return StoryLanguage()


def train_a_little(language: StoryLanguage) -> None:
    r"""As in the lesson, but small: build a model and train it for two steps."""
    generator = torch.Generator().manual_seed(0)
    small = {"d_model": 8, "n_heads": 1, "n_kv_heads": 1, "head_dim": 8, "ffn": Mlp(8)}
    model = GPT(preset("tiny", vocab_size=language.tokenizer.vocab_size, **small), generator)
    rows = (batches.story_batch(language, 2, generator) for _ in range(2))
    train(model, rows, Recipe(dtype="fp32"), steps=2)


def test_training_calls_every_part(language: StoryLanguage) -> None:
    with mine.active():
        train_a_little(language)
    calls = {name: calls for name, _, calls in mine.table().rows}
    assert all(calls.get(part, 0) >= 2 for part in USED), calls


@pytest.mark.parametrize("part", USED)
def test_training_raises_where_a_part_of_the_learner_raises(part: str, language: StoryLanguage) -> None:
    source = f"def {part.rpartition('.')[2]}(*args, **kwargs):\n    raise ArithmeticError('mine')\n"
    shelf.IN_MEMORY.keep_attempt(part, source)
    with pytest.raises(ArithmeticError, match="mine"), mine.active():
        train_a_little(language)
    assert (part, "yours", 1) in mine.table().rows
    train_a_little(language)  # outside of the block it is the course's own again


def test_dependency_table_is_the_matrix_that_mixes(fresh_seed: int) -> None:
    generator = torch.Generator().manual_seed(fresh_seed)
    mix = torch.randn(5, 5, generator=generator, dtype=torch.float64).tril()
    mix[3, 1] = 0
    x = torch.randn(1, 5, 3, generator=generator, dtype=torch.float64)
    before = x.clone()
    table = dependency_table(lambda y: mix @ y, x, step=2.0)
    torch.testing.assert_close(table, 2.0 * mix.abs())
    assert (table == 0).equal(mix == 0) and torch.equal(x, before)


class LooksBackAt(nn.Module):
    r"""A stand-in for a model whose only head pays all its attention to one place."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        n, seq_len = token_ids.shape
        weights = torch.zeros(n, 1, seq_len, seq_len)
        weights[..., self.place] = 1.0
        report("attn_weights", weights)
        return torch.zeros(n, seq_len, 9)


def test_finding_weights_of_a_head_that_looks_at_one_place() -> None:
    rows = torch.tensor([[1, 7, 8, 5, 7, 8], [1, 6, 7, 5, 6, 0]])  # 7 and 8 come again in the first, 6 in the second
    remembered = torch.zeros(rows.shape, dtype=torch.bool)
    remembered[0, 4], remembered[0, 5], remembered[1, 4] = True, True, True
    for place, hits in ((1, [1, 0, 1]), (2, [0, 1, 0]), (0, [0, 0, 0]), (3, [0, 0, 0])):
        found = finding_weights(LooksBackAt(place), rows, remembered)
        assert found.shape == (3, 1, 1) and found.flatten().tolist() == hits
    first_time = torch.zeros_like(remembered)
    first_time[0, 1] = True  # has not been said before: nothing to find, and it does not count
    assert finding_weights(LooksBackAt(1), rows, remembered | first_time).flatten().tolist() == [1, 0, 1]


def test_copy_watch_looks_when_it_should(language: StoryLanguage) -> None:
    generator = torch.Generator().manual_seed(0)
    model = GPT(preset("tiny", vocab_size=language.tokenizer.vocab_size), generator)
    watch = CopyWatch(model, language, every=2, n_stories=4)
    rows = (batches.story_batch(language, 2, generator) for _ in range(5))
    train(model, rows, Recipe(dtype="fp32"), steps=5, callbacks=[watch])
    assert watch.curve("step") == [0, 2, 4, 5]
    assert all(look["story"] > look["remembered"] > 0 and 0 < look["finding"] < 1 for look in watch.looks)
    assert isinstance(watch.picture(), Figure)


def test_the_bug_that_is_shown_is_the_bug_that_is_run(fresh_seed: int) -> None:
    code = re.search(r"```python\n(.*?)```", SHIFT_ROWS.task, re.DOTALL)[1]
    namespace: dict = {}
    exec(code, namespace)
    rows = torch.randint(0, 5, (4, 9), generator=torch.Generator().manual_seed(fresh_seed))
    shown, run = namespace["shift_rows"](rows, 0), found_in_the_wild(rows, 0)
    assert all(torch.equal(a, b) for a, b in zip(shown, run, strict=True))
    assert SHIFT_ROWS.judge(namespace["shift_rows"]).mistake == "not shifted"


def test_explored_sizes_are_those_of_the_model() -> None:
    config = model_explorer.explored_config(512, 3, "4 share", 8192, gated=True, tied=False)
    assert (config.n_heads, config.n_kv_heads, config.head_dim) == (8, 2, 64) and config.ffn == Glu(1408)
    with torch.device("meta"):
        model = GPT(config)
    sizes = model_explorer.explored_sizes(config)
    total = sum(parameter.numel() for parameter in model.parameters())
    norms = sum(p.numel() for name, p in model.named_parameters() if "norm" in name)
    assert sum(sizes["parameters"].values()) == pytest.approx((total - norms) / 1e6)
    assert sizes["memory"]["weights"] == pytest.approx(2 * total / 1e9)
    assert sum(sizes["memory"].values()) > 16 * total / 1e9
    cache = model.new_cache(1, model_explorer.CONTEXT, torch.bfloat16)
    in_cache = sum(tensor.nbytes for layer in cache for tensor in (layer._k, layer._v))
    assert sizes["memory"][f"cache of {model_explorer.CONTEXT} tokens"] == pytest.approx(in_cache / 1e9)


def test_explorer_draws_every_setting_of_its_choices() -> None:
    values = {name: control.value for name, control in model_explorer.model_controls().items()}
    assert isinstance(model_explorer.sizes_picture(**values), Figure)
    for sharing, width in product(model_explorer.SHARES, (256, 320 * 4, 4096)):
        figure = model_explorer.sizes_picture(**values | {"sharing": sharing, "d_model": width})
        said = [text.get_text() for axes in figure.axes for text in axes.texts]
        divides = (width // 64) % (model_explorer.SHARES[sharing] or 1) == 0
        assert bool(said) != divides, (sharing, width)
    with pytest.raises(ValueError, match="choose another d_model"):
        model_explorer.explored_config(320, 1, "2 share", 256, gated=False, tied=True)


def test_drawings_name_their_parts() -> None:
    designs = model_pictures.block_designs()
    for axes in designs.axes:
        boxes = [text.get_text() for text in axes.texts]
        assert sorted(box for box in boxes if box in ("attn", "ffn", "attn_norm", "ffn_norm", "+")) == sorted(
            ["attn", "ffn", "attn_norm", "ffn_norm", "+", "+"]
        )
    whole = model_pictures.whole_model(vocab_size="128")
    written = " ".join(text.get_text() for axes in whole.axes for text in axes.texts)
    assert all(name in written for name in ("token_ids", "tok_emb", "final_norm", "lm_head", "(B, T, 128)"))
    gallery = model_pictures.mask_gallery({"a": torch.ones(3, 3, dtype=torch.bool), "b": torch.eye(3).bool()})
    assert [axes.get_title() for axes in gallery.axes] == ["a\n9 pairs", "b\n3 pairs"]
