r"""The quantization explorer: bits, who shares a scale, and the form of the codes, on real weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from ipywidgets import Dropdown, IntSlider, SelectionSlider, Widget
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from minillm.course.plots import COLOURS, DASHES, INK, MARKERS, PALE, new_figure
from minillm.inference.quantization import affine, float_formats, nf4

SCALED = ("whole numbers, even to both sides", "whole numbers, lowest to highest", "NormalFloat")
FLOATS = {"float16": "fp16", "bfloat16": "bf16", "float8 (E5M2)": "fp8"}
FORMS = (*SCALED, *FLOATS)
BITS = range(2, 9)
SCALE_BITS = 16  # of a scale, or of a lowest number, as files keep them
MOST_NUMBERS = 2**16  # so many weights are shown, from the first rows on
BINS = 151
LEAST_ERROR = 1e-5  # where the axis of errors ends
SHARE = ("tensor", "row", 128, 64, 32, 16, 8)


@dataclass(frozen=True)
class Rounding:
    r"""Weights before and after, and what they cost.

    Args:
        weight: (R, C), float32.
        restored: (R, C), after rounding.
        n_bits: a weight, with its share of scales.
    """

    weight: Tensor
    restored: Tensor
    n_bits: float

    @property
    def error(self) -> float:
        r"""The relative error, see `affine.relative_error`."""
        return affine.relative_error(self.weight, self.restored)


def shown_rows(weight: Tensor) -> Tensor:
    r"""The first rows of a matrix: enough for the picture, few enough to be drawn at once.

    Args:
        weight: (R, C), float.
    Returns: (r, C), float32.
    """
    return weight[: max(1, MOST_NUMBERS // weight.shape[1])].detach().float().cpu()


def round_weights(weight: Tensor, form: str, n_bits: int, per: str | int) -> Rounding:
    r"""Round a matrix as the controls say.

    Args:
        weight: (R, C), float32.
        form: one of FORMS; the floats have bits of their own and no scale.
        n_bits: of a code, 2 to 8.
        per: who shares a scale, see `affine.sharing_groups`.
    Returns: the matrix before and after.
    Raises:
        ValueError: if there is no such form.
    """
    if form in FLOATS:
        kind = float_formats.FORMATS[FLOATS[form]]
        return Rounding(weight, float_formats.round_to_format(weight, kind).float(), kind.n_bits)
    if form not in SCALED:
        raise ValueError(f"form={form!r}: choose one of {', '.join(FORMS)}")
    groups = affine.sharing_groups(weight, per)
    if form == SCALED[0]:
        restored, n_beside = affine.restore_affine(*affine.quantize_affine(weight, n_bits, per, True)), 1
    elif form == SCALED[1]:
        scales, lows = (part[..., None] for part in affine.grid_of(groups, n_bits))
        restored, n_beside = affine.nearest_codes(groups, scales, lows, n_bits) * scales + lows, 2
    else:
        scales, levels = groups.abs().amax(dim=-1, keepdim=True), nf4.normal_levels(n_bits)
        codes = nf4.nearest_level(groups / scales.where(scales > 0, torch.ones_like(scales)), levels)
        restored, n_beside = levels[codes.long()] * scales, 1
    cost = affine.bits_per_number(n_bits, groups.shape[-1], n_beside * SCALE_BITS)
    return Rounding(weight, restored.reshape(weight.shape), cost)


def error_curves(weight: Tensor, per: str | int) -> dict[str, list[tuple[float, float]]]:
    r"""What every width costs and errs, for each form with scales.

    Args:
        weight: (R, C), float32.
        per: who shares a scale.
    Returns: form -> a pair for each of BITS: bits a weight, relative error.
    """
    roundings = {form: [round_weights(weight, form, n_bits, per) for n_bits in BITS] for form in SCALED}
    return {form: [(rounding.n_bits, rounding.error) for rounding in row] for form, row in roundings.items()}


def quantization_picture(weights: Mapping[str, Tensor], matrix: str, form: str, n_bits: int, per: str | int) -> Figure:
    r"""Draw the weights and their errors, and where the choice lies among the others.

    Args:
        weights: matrices (R, C) by name.
        matrix: which of them.
        form: one of FORMS.
        n_bits: of a code.
        per: who shares a scale.
    Returns: the picture.
    """
    weight = shown_rows(weights[matrix])
    rounding = round_weights(weight, form, n_bits, per)
    figure, (left, middle, right) = new_figure(3, width=11.4, height=3.7)
    spread = float(weight.std())
    for part, look in ((weight, {"label": "as trained", "color": PALE, "fill": True}),
                       (rounding.restored, {"label": "rounded", "color": COLOURS[0]})):
        draw_counts(left, part, 4 * spread, **look)
    left.set_yscale("log")
    left.set_ylim(0.7, 30 * weight.numel())
    left.legend(fontsize=8, frameon=False, loc="upper left")
    off = (rounding.restored - weight) / spread
    draw_counts(middle, off, max(1.05 * float(off.abs().max()), 1e-3), color=COLOURS[1], fill=True)
    _label(left, f"{matrix}: {weight.numel():,} weights", "weight", "how many")
    _label(middle, f"error, root mean square {float(off.square().mean().sqrt()):.2g}", "in standard deviations", "")
    _draw_curves(right, error_curves(weight, per), rounding)
    return figure


def draw_counts(axes: Axes, values: Tensor, reach: float, **look: object) -> None:
    r"""A histogram about 0.

    Args:
        axes: the panel.
        values: any shape; what lies beyond the reach is counted at the ends.
        reach: to either side.
        look: as matplotlib's `stairs` takes it.
    """
    counts = torch.histc(values.clamp(-reach, reach), BINS, -reach, reach)
    axes.stairs(counts.tolist(), torch.linspace(-reach, reach, BINS + 1).tolist(), **look)


def _draw_curves(axes: Axes, curves: Mapping[str, Sequence[tuple[float, float]]], chosen: Rounding) -> None:
    for number, (form, points) in enumerate(curves.items()):
        bits, errors = zip(*points, strict=True)
        axes.plot(bits, [max(error, LEAST_ERROR) for error in errors], label=form, color=COLOURS[number],
                  linestyle=DASHES[number], marker=MARKERS[number], markersize=4, linewidth=1.5)
    axes.plot([chosen.n_bits], [max(chosen.error, LEAST_ERROR)], marker="o", markersize=13, color="none",
              markeredgecolor=INK, markeredgewidth=1.8, linestyle="none", label="your choice")
    axes.set_yscale("log")
    axes.set_ylim(LEAST_ERROR / 1.5, 2e2)
    axes.set_xlim(1.7, max(9.3, chosen.n_bits + 0.6))
    axes.set_yticks([10.0**n for n in range(-5, 1)])
    axes.grid(color=PALE, linewidth=0.5)
    axes.legend(fontsize=8, frameon=False, loc="upper right")
    _label(axes, f"{chosen.n_bits:.4g} bits a weight, error {percent(chosen.error)}", "bits a weight, scales included",
           "relative error")


def percent(share: float) -> str:
    r"""A small share in words.

    Args:
        share: 0.0123.
    Returns: two figures, "1.2 %".
    """
    return "0 %" if share == 0 else f"{100 * share:.2g} %"


def _label(axes: Axes, title: str, x_name: str, y_name: str) -> None:
    axes.minorticks_off()
    axes.set_title(title, fontsize=10, color=INK)
    axes.set_xlabel(x_name, fontsize=9, color=INK)
    axes.set_ylabel(y_name, fontsize=9, color=INK)


def sharing_choices(weights: Mapping[str, Tensor]) -> list[str | int]:
    r"""Who may share a scale in all of these matrices.

    Args:
        weights: matrices (R, C).
    Returns: those of SHARE that divide every row.
    """
    widths = [matrix.shape[1] for matrix in weights.values()]
    return [per for per in SHARE if isinstance(per, str) or all(width % per == 0 for width in widths)]


def quantization_controls(weights: Mapping[str, Tensor]) -> dict[str, Widget]:
    r"""The controls of the explorer, at 4 bits and the smallest groups of at least 32.

    Args:
        weights: matrices (R, C) by name, at least one.
    Returns: a widget for each argument of `quantization_picture` but the weights.
    """
    look = {"style": {"description_width": "8em"}, "layout": {"width": "36em"}}
    shares = sharing_choices(weights)
    labels = {per if isinstance(per, str) else f"{per} neighbours": per for per in shares}
    start = [per for per in shares if isinstance(per, str) or per >= 32][-1]
    return {
        "matrix": Dropdown(options=list(weights), description="matrix", **look),
        "form": Dropdown(options=list(FORMS), value=SCALED[0], description="codes", **look),
        "n_bits": IntSlider(value=4, min=BITS[0], max=BITS[-1], description="bits", **look),
        "per": SelectionSlider(options=labels, value=start, description="share a scale", **look),
    }
