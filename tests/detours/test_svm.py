r"""The machine against the conditions of its optimum, its own primal problem, and cases with a known answer."""

from functools import partial

import pytest
import torch

from minillm.detours import kernels, patterns, svm

KERNELS = {
    "linear": kernels.linear_kernel,
    "degree 3": partial(kernels.polynomial_kernel, degree=3),
    "RBF": partial(kernels.rbf_kernel, gamma=2.0),
}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("penalty", [0.1, 2.0])
def test_optimum_is_proved_by_its_dual(name: str, penalty: float, fresh_seed: int):
    r"""For a convex problem, equal primal and dual values prove both optimal, however they were found."""
    points, labels = patterns.two_crescents(40, generator(fresh_seed), spread=0.3)
    kernel = KERNELS[name]
    machine = svm.fit_svm(points, labels, kernel, penalty, tolerance=1e-6, most_steps=1_000_000)
    assert machine.gap <= 1e-6
    alpha = machine.weights * labels
    assert bool((alpha >= 0).all()) and bool((alpha <= penalty).all())
    assert abs(float(machine.weights.sum())) < 1e-9
    squared = machine.weights @ kernel(points, points) @ machine.weights
    slack = (1 - labels * machine.decision(points)).clamp(min=0)
    primal, dual = 0.5 * squared + penalty * slack.sum(), alpha.sum() - 0.5 * squared
    assert float(primal) == pytest.approx(float(dual), rel=1e-3, abs=1e-3)
    assert machine.margin == pytest.approx(float(squared) ** -0.5)


def test_two_points_are_parted_in_the_middle(fresh_seed: int):
    points = torch.randn(2, 3, generator=generator(fresh_seed), dtype=torch.float64)
    labels = torch.tensor([1.0, -1.0], dtype=torch.float64)
    machine = svm.fit_svm(points, labels, kernels.linear_kernel, penalty=1e6, tolerance=1e-9)
    assert machine.decision(points).tolist() == pytest.approx([1.0, -1.0])
    assert float(machine.decision(points.mean(0, keepdim=True))) == pytest.approx(0.0, abs=1e-9)
    assert machine.margin == pytest.approx(float((points[0] - points[1]).norm()) / 2)


def test_the_four_corners_solved_by_hand():
    corners = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    labels = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    square = partial(kernels.polynomial_kernel, degree=2)
    machine = svm.fit_svm(corners, labels, square, penalty=10.0, tolerance=1e-9)
    assert machine.weights.tolist() == pytest.approx((labels / 8).tolist())
    assert machine.margin == pytest.approx(2**0.5) and machine.support.all()
    tried = torch.randn(50, 2, generator=generator(0), dtype=torch.float64)
    assert machine.decision(tried).tolist() == pytest.approx((tried[:, 0] * tried[:, 1]).tolist(), abs=1e-8)


def test_a_kernel_is_the_machine_of_its_coordinates(fresh_seed: int):
    points, labels = patterns.two_circles(40, generator(fresh_seed))
    lifted = kernels.polynomial_features(points, 2)
    there = svm.fit_svm(lifted, labels, kernels.linear_kernel, tolerance=1e-8, most_steps=1_000_000)
    square = partial(kernels.polynomial_kernel, degree=2)
    here = svm.fit_svm(points, labels, square, tolerance=1e-8, most_steps=1_000_000)
    torch.testing.assert_close(there.decision(lifted), here.decision(points), rtol=0.0, atol=1e-2)


def test_points_that_do_not_matter_can_be_left_out(fresh_seed: int):
    points, labels = patterns.two_circles(60, generator(fresh_seed), spread=0.05)
    kernel = KERNELS["RBF"]
    whole = svm.fit_svm(points, labels, kernel, 10.0, tolerance=1e-8, most_steps=1_000_000)
    kept = whole.support
    assert int(kept.sum()) < 60
    part = svm.fit_svm(points[kept], labels[kept], kernel, 10.0, tolerance=1e-8, most_steps=1_000_000)
    torch.testing.assert_close(part.decision(points), whole.decision(points), rtol=0.0, atol=1e-2)


def test_it_stops_when_told_and_says_what_is_missing(fresh_seed: int):
    points, labels = patterns.two_crescents(40, generator(fresh_seed), spread=0.3)
    machine = svm.fit_svm(points, labels, KERNELS["RBF"], 5.0, most_steps=3)
    assert machine.steps == 3 and machine.gap > 1e-3


def test_bad_problems_are_refused():
    points = torch.zeros(3, 2, dtype=torch.float64)
    for labels in ([1.0, 1.0, 1.0], [0.0, 1.0, 1.0]):
        with pytest.raises(ValueError, match="labels are"):
            svm.fit_svm(points, torch.tensor(labels), kernels.linear_kernel)
    with pytest.raises(ValueError, match="penalty=0"):
        svm.fit_svm(points, torch.tensor([1.0, -1.0, 1.0]), kernels.linear_kernel, penalty=0)


@pytest.mark.parametrize("name", patterns.PATTERNS)
def test_patterns_are_even_and_seeded(name: str, fresh_seed: int):
    draw = patterns.PATTERNS[name]
    points, labels = draw(200, generator(fresh_seed))
    assert points.shape == (200, 2) and float(labels.sum()) == 0.0
    assert torch.equal(points, draw(200, generator(fresh_seed))[0])
    exact, signs = draw(200, generator(fresh_seed), spread=0.0)
    if name == "two circles":
        assert exact.norm(dim=1).tolist() == pytest.approx([0.45 if sign > 0 else 1.0 for sign in signs])
    if name == "four corners":
        assert torch.equal(exact.prod(1).sign(), signs) and len({tuple(point) for point in exact.tolist()}) == 4
