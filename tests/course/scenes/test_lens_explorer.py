r"""The lens explorer: what it keeps of a model's run, and what it draws."""

import functools

import pytest
import torch

from minillm.config import preset
from minillm.course.scenes.lens_explorer import (
    MOST_TOKENS,
    Inside,
    lens_controls,
    lens_picture,
    look_inside,
    shown_token,
)
from minillm.course.widgets import Explorer
from minillm.inference import logit_lens
from minillm.layers import masks
from minillm.model.gpt import GPT
from minillm.text.byte_tokenizer import ByteTokenizer

TEXT = "a $b$ c"


@pytest.fixture(scope="module")
def model() -> GPT:
    return GPT(preset("tiny", vocab_size=256, max_seq_len=32), torch.Generator().manual_seed(3)).eval()


@pytest.fixture(scope="module")
def inside(model: GPT) -> Inside:
    return look_inside(model, ByteTokenizer(), TEXT)


def test_weights_and_lens_are_those_of_the_run(model: GPT, inside: Inside) -> None:
    n = len(TEXT)
    assert inside.tokens == ("a", "·", r"\$", "b", r"\$", "·", "c")
    assert inside.attn_weights.shape == (model.config.n_layers, model.config.n_heads, n, n)
    torch.testing.assert_close(inside.attn_weights.sum(-1), torch.ones(inside.attn_weights.shape[:-1]))
    unseen = ~masks.causal_mask(torch.arange(n), torch.arange(n))
    assert not inside.attn_weights[..., unseen].any()
    last = logit_lens.lens_logits(model, torch.tensor([list(TEXT.encode())]))[-1, 0]
    assert inside.tops.texts[-1][4][0] == ByteTokenizer().decode([int(last[4].argmax())])
    for text in ("", "x" * (MOST_TOKENS + 1)):
        with pytest.raises(ValueError, match=f"text has {len(text)} tokens"):
            look_inside(model, ByteTokenizer(), text)


def test_labels_can_be_drawn() -> None:
    assert [shown_token(text) for text in (" Paris", "\n", "\t", "$x$", "猫", "é", "", "\x00")] == [
        "·Paris", "\\n", "\\t", r"\$x\$", "□", "é", "□", "□"]


def test_picture_shows_the_head_and_a_bar_a_layer(inside: Inside) -> None:
    figure = lens_picture(inside, layer=2, head=1, place=5)
    left, right = figure.axes
    torch.testing.assert_close(torch.as_tensor(left.images[0].get_array().data).float(), inside.attn_weights[1, 0])
    assert left.patches[0].get_y() == 4.5
    *bars, frame = right.patches
    widths = torch.tensor([bar.get_width() for bar in bars], dtype=torch.float32)
    torch.testing.assert_close(widths, inside.tops.probabilities[:, 5, 0])
    assert frame.get_y() == 1.5 and f"number {int(inside.tops.ranks[2, 5]) + 1};" in right.get_title()
    for wrong in ({"layer": 0}, {"layer": 3}, {"head": 0}, {"head": 99}, {"place": 7}, {"place": -1}):
        with pytest.raises(ValueError, match="there are 2 layers"):
            lens_picture(inside, **{"layer": 1, "head": 1, "place": 0, **wrong})


def test_moving_a_control_draws_another_picture(inside: Inside) -> None:
    controls = lens_controls(inside, layer=1, head=1)
    explorer = Explorer(functools.partial(lens_picture, inside), "a small model inside", **controls)
    assert controls["place"].value == len(TEXT) - 1 and [text for text, _ in controls["place"].options][2] == "3  $"
    for name, value in (("layer", 2), ("head", 2), ("place", 3)):
        before = explorer.picture.value
        controls[name].value = value
        assert explorer.picture.value != before, name
