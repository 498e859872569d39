r"""The divergence against torch's own and against its definition."""

import math

import pytest
import torch
import torch.nn.functional as F

from minillm.inference.divergence import mean_kl


def test_kl_equals_torchs_and_is_not_negative(fresh_seed):
    torch.manual_seed(fresh_seed)
    exact, other = torch.randn(2, 3, 5, 17)
    logs = [part.double().log_softmax(-1).flatten(0, 1) for part in (other, exact)]
    assert mean_kl(exact, other) == pytest.approx(F.kl_div(*logs, reduction="batchmean", log_target=True).item())
    assert mean_kl(exact, other) > 0 and mean_kl(exact, exact + 3) == pytest.approx(0, abs=1e-9)


def test_a_sure_token_costs_what_the_other_thinks_of_it():
    exact = torch.tensor([0.0, float("-inf"), float("-inf")])
    assert mean_kl(exact, torch.tensor([0.25, 0.5, 0.25]).log()) == pytest.approx(math.log(4))
    with pytest.raises(ValueError, match="same places"):
        mean_kl(torch.zeros(2, 3), torch.zeros(3))
