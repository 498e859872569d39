r"""The explorer of lesson 11: it rounds as the library does, and every choice can be drawn."""

from functools import partial
from itertools import product

import pytest
import torch
from matplotlib.figure import Figure

from minillm.course.scenes import quantization_explorer as explorer
from minillm.course.widgets import Explorer
from minillm.inference.quantization import affine, int4, nf4, rows

SYMMETRIC, LOWEST, NORMAL = explorer.SCALED


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_choices_are_the_library_s(fresh_seed: int) -> None:
    weight = drawn(fresh_seed, 6, 64)
    expected = {
        (SYMMETRIC, 8, "row"): (rows.restore_rows(*rows.quantize_rows(weight)), 8 + 16 / 64),
        (LOWEST, 4, 32): (int4.restore_int4(*int4.int4_groups(weight)), 5.0),
        (NORMAL, 4, 64): (nf4.restore_nf4(*nf4.nf4_quantize(weight)), 4.25),
        ("float16", 4, "row"): (weight.half().float(), 16),
        ("bfloat16", 4, "row"): (weight.bfloat16().float(), 16),
        ("float8 (E5M2)", 4, "row"): (weight.to(torch.float8_e5m2).float(), 8),
    }
    for choice, (restored, n_bits) in expected.items():
        rounding = explorer.round_weights(weight, *choice)
        torch.testing.assert_close(rounding.restored, restored, atol=1e-6, rtol=1e-6)
        assert rounding.n_bits == n_bits
        assert rounding.error == pytest.approx(affine.relative_error(weight, restored), rel=1e-4)


def test_curves_pass_through_the_choice() -> None:
    weight = drawn(1, 16, 64)
    curves = explorer.error_curves(weight, 16)
    for form, n_bits in product(explorer.SCALED, explorer.BITS):
        chosen = explorer.round_weights(weight, form, n_bits, 16)
        assert curves[form][n_bits - explorer.BITS[0]] == (chosen.n_bits, chosen.error)
    for points in curves.values():
        errors = [error for _, error in points]
        assert errors == sorted(errors, reverse=True)  # a bit more, an error less


def test_every_choice_can_be_drawn() -> None:
    weights = {"one": drawn(2, 8, 48), "zero": torch.zeros(4, 48) + torch.eye(4, 48), "large": drawn(3, 5000, 16)}
    for matrix, form in product(weights, explorer.FORMS):
        figure = explorer.quantization_picture(weights, matrix, form, 4, 16)
        assert isinstance(figure, Figure) and len(figure.axes) == 3
        assert figure.axes[0].get_title().startswith(f"{matrix}: ")
    shown = explorer.shown_rows(weights["large"])
    assert shown.numel() == explorer.MOST_NUMBERS and torch.equal(shown, weights["large"][: len(shown)])
    assert len(explorer.shown_rows(drawn(4, 2, 2 * explorer.MOST_NUMBERS))) == 1


def test_an_error_of_zero_is_said_and_drawn() -> None:
    weight = torch.arange(16).repeat(4, 2).float()
    figure = explorer.quantization_picture({"grid": weight}, "grid", LOWEST, 4, 16)
    assert figure.axes[2].get_title() == "6 bits a weight, error 0 %"
    assert figure.axes[2].lines[-1].get_ydata().tolist() == [explorer.LEAST_ERROR]
    assert explorer.percent(0.0123) == "1.2 %"


def test_controls_offer_what_divides_the_rows() -> None:
    weights = {"a": drawn(5, 4, 96), "b": drawn(6, 4, 64)}
    assert explorer.sharing_choices(weights) == ["tensor", "row", 32, 16, 8]
    controls = explorer.quantization_controls(weights)
    assert {name: control.value for name, control in controls.items()} == {
        "matrix": "a", "form": SYMMETRIC, "n_bits": 4, "per": 32}
    shown = Explorer(partial(explorer.quantization_picture, weights), "Weights and their errors.", **controls)
    before = shown.picture.value
    controls["n_bits"].value = 2
    assert shown.picture.value != before
    assert explorer.quantization_controls({"odd": drawn(7, 3, 7)})["per"].value == "row"


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="form='int4'"):
        explorer.round_weights(torch.ones(2, 8), "int4", 4, "row")
