r"""Pictures of lesson 16 show what they are given."""

import pytest
import torch

from minillm.config import preset
from minillm.course.plots import new_figure, png_bytes
from minillm.course.scenes.real_model_pictures import (
    CHAIN,
    chain_picture,
    next_token_panels,
    recall_panel,
    reliability_panel,
    weights_picture,
)
from minillm.inference.calibration import calibration_bins
from minillm.model.gpt import GPT
from minillm.text.byte_tokenizer import ByteTokenizer


def test_bars_of_weights_fill_the_whole_width():
    (axes,) = weights_picture({"one": preset("tiny"), "two": preset("smollm2-135m")}).axes
    widths = [patch.get_width() for patch in axes.patches]
    assert len(widths) == 6 and sum(widths[:3]) == pytest.approx(1) == pytest.approx(sum(widths[3:]))
    assert widths[3] == pytest.approx(49152 * 576 / 134_515_008)
    assert "134.5 million" in axes.get_yticklabels()[1].get_text()


def test_panels_show_the_likeliest_tokens():
    tokenizer = ByteTokenizer()
    model = GPT(preset("tiny", vocab_size=tokenizer.vocab_size), torch.Generator().manual_seed(0)).eval()
    figure = next_token_panels(model, tokenizer, ["ab", "xyz"], top_k=4)
    for axes, text in zip(figure.axes, ["ab", "xyz"], strict=True):
        with torch.inference_mode():
            probs = model(torch.tensor([tokenizer.encode(text)]))[0, -1].softmax(-1)
        assert [bar.get_width() for bar in axes.patches] == pytest.approx(probs.topk(4).values.tolist())
        assert axes.get_title().startswith(text)
    assert png_bytes(figure)


def test_reliability_has_a_bar_a_bin_as_high_as_its_accuracy():
    confidences = torch.tensor([0.15, 0.15, 0.95, 0.92])
    bins = calibration_bins(confidences, torch.tensor([True, False, True, True]))
    _, (axes,) = new_figure()
    reliability_panel(axes, bins, "title")
    assert [bar.get_height() for bar in axes.patches] == [0.5, 1.0]
    assert [text.get_text() for text in axes.texts] == ["2", "2"]


def test_the_chain_names_its_links_in_order():
    said = [text.get_text() for text in chain_picture().axes[0].texts]
    assert [said.index(name) for name, _ in CHAIN] == sorted(said.index(name) for name, _ in CHAIN)


def test_recalls_of_both_kinds_are_drawn():
    _, (axes,) = new_figure()
    recall_panel(axes, {"words": (1.0, 0.1), "vectors": (0.9, 0.7)}, ("own", "other"), "title")
    assert [bar.get_width() for bar in axes.patches] == [1.0, 0.9, 0.1, 0.7]
    assert [text.get_text() for text in axes.texts] == ["1.00", "0.90", "0.10", "0.70"]
