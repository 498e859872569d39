r"""The norm explorer, the drawings of lesson 05, and the census of norms against Hugging Face's classes."""

import math

import pytest
import torch

from minillm.course.scenes.deep_stacks import PLACES
from minillm.course.scenes.norm_census import CENSUS, ends_in_a_norm, norm_kind
from minillm.course.scenes.norm_explorer import (
    MOST_LAYERS,
    depth_picture,
    explored_readings,
    norm_controls,
)
from minillm.course.scenes.norm_pictures import DESIGNS, branch_designs, token_panels
from minillm.course.widgets import Explorer


@pytest.mark.parametrize("place", PLACES)
def test_the_stream_does_in_the_explorer_what_its_design_says(place):
    readings = explored_readings(place, "LayerNorm", 12, 1.0)
    end = float(readings.variance[-1].mean())
    if place in ("post-norm", "DeepNorm", "no residual"):
        assert end == pytest.approx(1.0, abs=0.1)
    elif place == "no norm":
        assert end > 20  # it multiplies from layer to layer
    else:
        assert 4 < end < 20  # it adds from layer to layer
    assert len(readings.gradient) == 12 and len(readings.likeness) == 13


def test_rms_norm_leaves_the_mean_in_the_stream():
    layer, rms = (explored_readings("post-norm", kind, 6, 1.0) for kind in ("LayerNorm", "RMSNorm"))
    assert not torch.allclose(layer.likeness[-1], rms.likeness[-1], atol=1e-4)


def test_bad_choices_are_named():
    with pytest.raises(ValueError, match=f"n_layers={MOST_LAYERS + 1}"):
        explored_readings("pre-norm", "LayerNorm", MOST_LAYERS + 1, 1.0)
    with pytest.raises(ValueError, match="kind='BatchNorm'"):
        explored_readings("pre-norm", "BatchNorm", 3, 1.0)


def test_picture_shows_both_designs_and_follows_the_controls():
    explorer = Explorer(depth_picture, "two designs at 48 layers", **norm_controls())
    before = explorer.picture.value
    explorer.controls["n_layers"].value = 5
    assert explorer.picture.value != before
    figure = depth_picture("DeepNorm", "no norm", "RMSNorm", 5, 2.0)
    labels = [[line.get_label() for line in axes.get_lines()] for axes in figure.axes]
    assert labels == [["DeepNorm", "no norm"]] * 3
    assert [len(axes.get_lines()[0].get_xdata()) for axes in figure.axes] == [6, 6, 5]
    alone = depth_picture("sandwich", "sandwich", "LayerNorm", 2, 1.0)
    assert [len(axes.get_lines()) for axes in alone.axes] == [1, 1, 1]


def test_every_design_is_drawn_with_its_boxes():
    figure = branch_designs()
    for axes, (title, (branch, stream)) in zip(figure.axes, DESIGNS.items(), strict=True):
        written = [text.get_text() for text in axes.texts if text.get_text() not in ("", "x")]
        assert axes.get_title() == title and written == [*branch, *stream]


def test_token_panels_share_one_scale():
    figure = token_panels({"raw": [1.0, 5.0, 3.0], "normed": torch.tensor([-1.0, 1.0, 0.0])})
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    heights = [[bar.get_height() for bar in axes.patches] for axes in figure.axes]
    assert heights == [[1.0, 5.0, 3.0], [-1.0, 1.0, 0.0]]


def test_measures_of_the_census_tell_norms_apart(fresh_seed):
    torch.manual_seed(fresh_seed)
    x = torch.randn(2, 3, 32)
    layer, rms = torch.nn.LayerNorm(32), torch.nn.RMSNorm(32)
    assert ends_in_a_norm(layer(x)) and ends_in_a_norm(rms(x)) and not ends_in_a_norm(x + layer(x))
    assert (norm_kind(layer, 32), norm_kind(rms, 32)) == ("layer", "rms")


def tiny_hf(name):
    r"""A tiny fresh model of the family: its stream after the first block, and one norm of that block."""
    hf = pytest.importorskip("transformers")
    small = {"vocab_size": 50}
    ids = torch.randint(50, (2, 7))
    if name == "GPT-1":
        model = hf.OpenAIGPTModel(hf.OpenAIGPTConfig(n_embd=32, n_layer=2, n_head=4, **small))
        norm = model.h[0].ln_1
    elif name == "BERT":
        model = hf.BertModel(hf.BertConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, **small))
        norm = model.encoder.layer[0].output.LayerNorm
    elif name == "XLNet":
        model = hf.XLNetModel(hf.XLNetConfig(d_model=32, n_layer=2, n_head=4, d_inner=64, **small))
        norm = model.layer[0].ff.layer_norm
    elif name == "GPT-2":
        model = hf.GPT2Model(hf.GPT2Config(n_embd=32, n_layer=2, n_head=4, **small))
        norm = model.h[0].ln_1
    elif name == "T5":
        model = hf.T5EncoderModel(hf.T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, **small))
        norm = model.encoder.block[0].layer[0].layer_norm
    else:
        model = hf.LlamaModel(hf.LlamaConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, **small))
        norm = model.layers[0].input_layernorm
    with torch.no_grad():
        streams = model.eval()(ids, output_hidden_states=True).hidden_states
    return streams[1], norm


@pytest.mark.parametrize("name", CENSUS)
def test_census_agrees_with_hugging_face(name, fresh_seed):
    torch.manual_seed(fresh_seed)
    stream, norm = tiny_hf(name)
    with torch.no_grad():
        assert norm_kind(norm, 32) == CENSUS[name].kind
    assert ends_in_a_norm(stream) == (CENSUS[name].place == "post")
    assert math.isfinite(float(stream.sum()))


def test_a_stream_that_overflows_ends_where_it_does():
    figure = depth_picture("no norm", "DeepNorm", "LayerNorm", MOST_LAYERS, 2.0)
    variance, likeness, _ = ([line.get_ydata() for line in axes.get_lines()] for axes in figure.axes)
    ends = [sum(math.isfinite(value) for value in curve) for curve in (*variance, *likeness)]
    assert ends[0] == ends[2] < MOST_LAYERS + 1 == ends[1] == ends[3]
