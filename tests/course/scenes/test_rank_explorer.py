r"""The explorer of lesson 13: its training is that of the loop with inputs, its bound is a bound, all can be drawn."""

from functools import partial

import pytest
import torch
from matplotlib.figure import Figure

from minillm.course.scenes import rank_explorer as explorer
from minillm.course.widgets import Explorer
from minillm.tuning import low_rank, spectrum


@pytest.fixture(scope="module")
def targets() -> dict[str, torch.Tensor]:
    return {"rank 3": explorer.known_change(20, 14, 3), "noisy": explorer.known_change(14, 20, 3, 0.2, seed=1)}


def test_known_change_is_known(fresh_seed: int) -> None:
    change = explorer.known_change(24, 17, 4, seed=fresh_seed)
    values = spectrum.singular_values(change)
    torch.testing.assert_close(values[:4], torch.linspace(1.0, 0.5, 4).double(), atol=1e-5, rtol=1e-5)
    assert values[4:].max() < 1e-5
    noisy = explorer.known_change(24, 17, 4, 0.1, seed=fresh_seed)
    assert float((noisy - change).norm() / change.norm()) == pytest.approx(0.1, rel=1e-4)
    assert spectrum.rank_error(noisy)[4] > 0
    assert float(explorer.unit_outputs(noisy).norm()) == pytest.approx(24**0.5, rel=1e-5)
    with pytest.raises(ValueError, match="0 throughout"):
        explorer.unit_outputs(torch.zeros(3, 4))


@pytest.mark.parametrize("rank_stabilized", [False, True])
def test_ranks_trained_together_are_those_trained_alone(rank_stabilized: bool) -> None:
    # Fixed numbers: Adam divides by gradients near 0, where another order of a sum can turn a sign.
    target = explorer.unit_outputs(explorer.known_change(9, 7, 2, 0.1)).double()
    together = explorer.train_factors(target.float(), (1, 2, 4), 8.0, rank_stabilized, n_steps=5)
    for at, rank in enumerate(together.ranks):
        lora_a, _ = low_rank.lora_init(7, 9, 4, torch.Generator().manual_seed(0))
        lora_a = lora_a[:rank].double().requires_grad_()
        lora_b = torch.zeros(9, rank, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([lora_a, lora_b], lr=explorer.LEARNING_RATE)
        inputs, scaling = torch.eye(7, dtype=torch.float64), 8.0 / (rank**0.5 if rank_stabilized else rank)
        for step in range(6):
            outputs = low_rank.lora_forward(inputs, torch.zeros(7, 9, dtype=torch.float64), lora_a, lora_b, scaling)
            loss = (outputs - target.T).square().sum() / target.square().sum()
            assert float(together.errors[step, at]) == pytest.approx(loss.item() ** 0.5, rel=1e-3)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def test_training_begins_at_the_base_and_never_beats_the_bound(fresh_seed: int) -> None:
    target = explorer.unit_outputs(explorer.known_change(15, 11, 3, 0.3, seed=fresh_seed))
    ranks = (1, 2, 4, 8)
    trained = explorer.train_factors(target, ranks, 16.0, seed=fresh_seed)
    least = spectrum.rank_error(target)[list(ranks)]
    assert trained.errors[0].tolist() == [1.0] * 4
    assert bool((trained.errors.double() >= least - 1e-4).all())
    for change, rank in zip(trained.changes, ranks, strict=True):
        assert spectrum.rank_error(change)[rank] < 1e-5, "a change has its rank, whatever was trained beside it"


def test_alpha_is_too_small_right_and_too_large() -> None:
    target = explorer.unit_outputs(explorer.known_change(48, 64, 4))
    small, right, large = (explorer.train_factors(target, (4,), alpha).errors[-1].item() for alpha in (0.25, 16, 256))
    assert right < 0.2 and small > 2 * right and large > 2 * right


def test_every_choice_can_be_drawn(targets: dict[str, torch.Tensor]) -> None:
    assert explorer.rank_choices(targets) == (1, 2, 3, 4, 6, 8, 12)
    for choice in (("rank 3", 3, 16, False), ("noisy", 12, 256, True), ("noisy", 1, 1, False)):
        figure = explorer.rank_picture(targets, *choice)
        assert isinstance(figure, Figure) and len(figure.axes) == 3
        assert figure.get_size_inches()[0] <= 9
        assert figure.axes[1].get_title().startswith(f"rank {choice[1]}: at best ")
    assert explorer.rank_picture(targets, "rank 3", 3, 16).axes[1].get_title() == "rank 3: at best 0 % left"
    assert [explorer.shown_share(error) for error in (1e-9, 0.1234, 1.0, 2.5)] == ["0 %", "12 %", "1 x", "2.5 x"]


def test_controls_are_those_of_the_picture(targets: dict[str, torch.Tensor]) -> None:
    controls = explorer.rank_controls(targets)
    assert {name: control.value for name, control in controls.items()} == {
        "target": "rank 3", "rank": 4, "alpha": 16, "rank_stabilized": False}
    shown = Explorer(partial(explorer.rank_picture, targets), "A change and what ranks reach.", **controls)
    before = shown.picture.value
    for name, value in (("alpha", 1), ("rank", 1), ("rank_stabilized", True), ("target", "noisy")):
        controls[name].value = value
        assert shown.picture.value != before or name == "rank_stabilized"  # at rank 1 the root changes nothing
        before = shown.picture.value
    assert explorer.rank_controls({"thin": torch.ones(2, 9)})["rank"].value == 2
