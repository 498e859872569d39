r"""The families' tasks: what the texts promise, and that every family learns a little in a few steps."""

import math

import pytest
import torch

from minillm.bench import echoes
from minillm.bench.variants import families


def test_an_echo_is_a_half_twice():
    text = echoes.echo_batch(50, torch.Generator().manual_seed(0))
    assert torch.equal(text[:, : echoes.HALF], text[:, echoes.HALF :])
    assert text[:, : echoes.HALF].unique().tolist() == list(range(echoes.SYMBOLS))


def test_holes_never_hide_both_copies(fresh_seed):
    holes = echoes._two_holes(500, torch.Generator().manual_seed(fresh_seed))
    gap = holes[:, 1] - holes[:, 0]
    assert (gap >= 2).all() and (gap != echoes.HALF).all() and holes.max() == 2 * echoes.HALF - 1


@pytest.mark.parametrize("name", families.FAMILIES)
def test_a_fresh_family_guesses_and_learns(name, fresh_seed):
    make, loss_of, measures = families.FAMILIES[name]
    torch.manual_seed(fresh_seed)
    model = make().eval()
    with torch.no_grad():
        fresh = measures(model, torch.Generator().manual_seed(0))
        before = float(loss_of(model, torch.Generator().manual_seed(1)))
    assert set(fresh) <= {"hole", "echo", "translation"}
    assert all(loss > 0.8 * math.log(echoes.SYMBOLS) for loss in fresh.values())
    families.fit(model, loss_of, fresh_seed, steps=8)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    with torch.no_grad():
        assert float(loss_of(model, torch.Generator().manual_seed(1))) < before
