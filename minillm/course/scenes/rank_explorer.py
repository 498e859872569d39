r"""The rank explorer: what a change of a rank can reach, and what training with an alpha makes of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from ipywidgets import Checkbox, Dropdown, SelectionSlider, Widget
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from minillm.course.plots import COLOURS, DASHES, INK, PALE, new_figure
from minillm.tuning import low_rank, spectrum

RANKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
ALPHAS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
N_STEPS = 40
LEARNING_RATE = 0.05
LEAST_ERROR = 1e-2  # where the axis of errors ends
MOST_VALUES = 40  # singular values shown
START = {"rank": 4, "alpha": 16}


@dataclass(frozen=True)
class Trained:
    r"""Changes of several ranks after the same training.

    Args:
        ranks: of the changes.
        errors: (n_steps + 1, n_ranks), relative, from the start on.
        changes: (n_ranks, d_out, d_in), at the end.
    """

    ranks: tuple[int, ...]
    errors: Tensor
    changes: Tensor


def known_change(d_out: int, d_in: int, rank: int, noise: float = 0.0, seed: int = 0) -> Tensor:
    r"""A matrix whose strong directions are known: `rank` of them, each a little weaker than the one before.

    Args:
        d_out: rows.
        d_in: columns.
        rank: how many strong directions.
        noise: size of a random matrix of full rank on top, as a share of the whole.
        seed: of the numbers.
    Returns: (d_out, d_in), float32.
    """
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.linalg.qr(torch.randn(n, rank, generator=generator))[0] for n in (d_out, d_in))
    change = (left * torch.linspace(1.0, 0.5, rank)) @ right.T
    extra = torch.randn(d_out, d_in, generator=generator)
    return change + noise * extra * (change.norm() / extra.norm())


def unit_outputs(change: Tensor) -> Tensor:
    r"""The matrix in the size in which it makes outputs of about 1 from inputs of about 1.

    Args:
        change: (d_out, d_in), float, not all zeros.
    Returns: (d_out, d_in), float32.
    Raises:
        ValueError: if all its numbers are 0: there is nothing to be learned.
    """
    if not bool(change.any()):
        raise ValueError(f"change of shape {tuple(change.shape)} is 0 throughout; give one that changes something")
    change = change.detach().float()
    return change * (change.shape[0] ** 0.5 / change.norm())


def train_factors(
    target: Tensor, ranks: Sequence[int], alpha: float, rank_stabilized: bool = False, n_steps: int = N_STEPS,
    learning_rate: float = LEARNING_RATE, seed: int = 0,
) -> Trained:
    r"""Train factors of several ranks towards one target, with Adam, all at once.

    Inputs are taken to be independent, of size 1: the mean squared error of the outputs is then the squared distance of
    the two matrices, and no inputs have to be drawn.

    Args:
        target: (d_out, d_in), float.
        ranks: of the changes.
        alpha: each change is multiplied by alpha / rank.
        rank_stabilized: by alpha / sqrt(rank) instead.
        n_steps: of Adam.
        learning_rate: of Adam.
        seed: of lora_a; a lower rank begins with the first rows of a higher one's.
    Returns: the errors at each step, and the changes at the end.
    """
    d_out, d_in = target.shape
    n_most, sizes = max(ranks), torch.tensor([float(rank) for rank in ranks])
    fresh, zeros = low_rank.lora_init(d_in, d_out, n_most, torch.Generator().manual_seed(seed))
    used = torch.arange(n_most) < sizes[:, None]
    lora_a = torch.nn.Parameter(fresh * used[:, :, None])  # rows of zeros get no gradient: they stay so
    lora_b = torch.nn.Parameter(zeros.repeat(len(ranks), 1, 1))
    scaling = (alpha / (sizes.sqrt() if rank_stabilized else sizes))[:, None, None]
    optimizer = torch.optim.Adam([lora_a, lora_b], lr=learning_rate)
    errors, whole = [], target.square().sum()
    for step in range(n_steps + 1):
        changes = scaling * (lora_b @ lora_a)
        shares = (changes - target).square().sum(dim=(1, 2)) / whole
        errors.append(shares.detach().sqrt())
        if step < n_steps:
            optimizer.zero_grad()
            shares.sum().backward()
            optimizer.step()
    return Trained(tuple(ranks), torch.stack(errors), changes.detach())


def rank_picture(
    targets: Mapping[str, Tensor], target: str, rank: int, alpha: float, rank_stabilized: bool = False
) -> Figure:
    r"""Draw the target's directions, what each rank can and does reach, and the way there.

    Args:
        targets: matrices (d_out, d_in) by name.
        target: which of them.
        rank: of the change; one of `rank_choices`.
        alpha: see `train_factors`.
        rank_stabilized: likewise.
    Returns: the picture.
    """
    wanted = unit_outputs(targets[target])
    trained = train_factors(wanted, rank_choices({target: wanted}), alpha, rank_stabilized)
    at = trained.ranks.index(rank)
    least = spectrum.rank_error(wanted)
    figure, (left, middle, right) = new_figure(3, width=9.0, height=3.4)
    draw_directions(left, wanted, trained.changes[at], rank)
    draw_reach(middle, least, trained, at)
    draw_way(right, trained.errors[:, at], float(least[rank]))
    factor = f"{alpha:g} / {'√' if rank_stabilized else ''}{rank}"
    _rank_labels(left, f"{target}: {wanted.shape[0]} x {wanted.shape[1]}", "direction", "singular value")
    _rank_labels(middle, f"rank {rank}: at best {shown_share(least[rank])} left", "rank", "error left")
    _rank_labels(right, f"scaling {factor}: {shown_share(trained.errors[-1, at])} left", "step", "")
    return figure


def draw_directions(axes: Axes, wanted: Tensor, change: Tensor, rank: int) -> None:
    r"""The singular values of the target and of the trained change.

    Args:
        axes: the panel.
        wanted: (d_out, d_in).
        change: (d_out, d_in).
        rank: of the change.
    """
    of_target, of_change = (spectrum.singular_values(matrix)[:MOST_VALUES].tolist() for matrix in (wanted, change))
    places = range(1, len(of_target) + 1)
    axes.bar(places, of_target, color=PALE, width=0.8, label="target")
    axes.plot(places[:rank], of_change[:rank], color=COLOURS[0], marker="o", markersize=4, linestyle="none",
              label="trained")
    axes.axvline(rank + 0.5, color=INK, linewidth=1.0, linestyle=(0, (2, 2)))
    axes.legend(fontsize=8, frameon=False, loc="upper right")


def draw_reach(axes: Axes, least: Tensor, trained: Trained, at: int) -> None:
    r"""Error against rank: the bound, and training.

    Args:
        axes: the panel.
        least: errors of the best matrices of rank 0, 1, ...
        trained: at each rank.
        at: which of them is the choice.
    """
    n_most, ends = trained.ranks[-1], trained.errors[-1].clamp(LEAST_ERROR, 1 / LEAST_ERROR).tolist()
    axes.plot(range(1, n_most + 1), least[1 : n_most + 1].clamp(min=LEAST_ERROR).tolist(), color=COLOURS[1],
              linestyle=DASHES[1], linewidth=1.8, label="best possible")
    axes.plot(trained.ranks, ends, color=COLOURS[0], linewidth=1.5, marker="o", markersize=4,
              label=f"after {len(trained.errors) - 1} steps")
    axes.plot([trained.ranks[at]], [ends[at]], marker="o", markersize=12, color="none", markeredgecolor=INK,
              markeredgewidth=1.8, linestyle="none")
    axes.set_xscale("log", base=2)
    powers = [rank for rank in trained.ranks if rank & (rank - 1) == 0]
    axes.set_xticks(powers, [str(rank) for rank in powers])
    _error_axis(axes, max(8.0, 5 * max(ends)))
    axes.legend(fontsize=8, frameon=False, loc="upper right")


def draw_way(axes: Axes, errors: Tensor, least: float) -> None:
    r"""The error at each step, and the bound of the rank.

    Args:
        axes: the panel.
        errors: (n_steps + 1,).
        least: of the best matrix of this rank.
    """
    shown = errors.clamp(LEAST_ERROR, 1 / LEAST_ERROR).tolist()
    axes.plot(range(len(shown)), shown, color=COLOURS[0], linewidth=1.8)
    axes.axhline(max(least, LEAST_ERROR), color=COLOURS[1], linestyle=DASHES[1], linewidth=1.8)
    _error_axis(axes, max(2.0, 1.5 * max(shown)))


def shown_share(error: Tensor | float) -> str:
    r"""An error in words.

    Args:
        error: relative.
    Returns: such as "12 %", or "2.4 x" above 1; what is only rounding is "0 %".
    """
    share = float(error)
    return "0 %" if share < 1e-6 else f"{100 * share:.2g} %" if share < 0.995 else f"{share:.2g} x"


def _error_axis(axes: Axes, top: float) -> None:
    axes.set_yscale("log")
    axes.set_ylim(LEAST_ERROR / 1.4, top)
    axes.grid(color=PALE, linewidth=0.5)


def _rank_labels(axes: Axes, title: str, x_name: str, y_name: str) -> None:
    axes.minorticks_off()
    axes.set_title(title, fontsize=9, color=INK)
    axes.set_xlabel(x_name, fontsize=9, color=INK)
    axes.set_ylabel(y_name, fontsize=9, color=INK)


def rank_choices(targets: Mapping[str, Tensor]) -> tuple[int, ...]:
    r"""Ranks that a change of each of these matrices can have.

    Args:
        targets: matrices (d_out, d_in).
    Returns: those of RANKS that are not above their smallest side.
    """
    smallest = min(min(matrix.shape) for matrix in targets.values())
    return tuple(rank for rank in RANKS if rank <= smallest)


def rank_controls(targets: Mapping[str, Tensor]) -> dict[str, Widget]:
    r"""The controls of the explorer.

    Args:
        targets: matrices (d_out, d_in) by name, at least one.
    Returns: a widget for each argument of `rank_picture` but the targets.
    """
    look = {"style": {"description_width": "8em"}, "layout": {"width": "36em"}}
    ranks = rank_choices(targets)
    return {
        "target": Dropdown(options=list(targets), description="target", **look),
        "rank": SelectionSlider(options=ranks, value=min(START["rank"], ranks[-1]), description="rank", **look),
        "alpha": SelectionSlider(options=ALPHAS, value=START["alpha"], description="alpha", **look),
        "rank_stabilized": Checkbox(value=False, description="divide by the root of the rank (rsLoRA)", **look),
    }
