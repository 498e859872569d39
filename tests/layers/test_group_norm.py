r"""GroupNorm of one token against torch's, which must be shown one token at a time."""

import pytest
import torch
import torch.nn.functional as F

from minillm.layers.group_norm import group_norm
from minillm.layers.norms import layer_norm


def test_group_norm_is_torch_s_with_every_token_a_sample_of_its_own(fresh_seed):
    torch.manual_seed(fresh_seed)
    for n_groups in (1, 2, 4, 12):
        x, weight, bias = torch.randn(2, 5, 12) * 3 + 1, torch.randn(12), torch.randn(12)
        want = F.group_norm(x.reshape(10, 12), n_groups, weight, bias, 1e-2).reshape(x.shape)
        torch.testing.assert_close(group_norm(x, n_groups, weight, bias, 1e-2), want)
    torch.testing.assert_close(group_norm(x, 1, weight, bias), layer_norm(x, weight, bias))


def test_no_token_sees_another(fresh_seed):
    torch.manual_seed(fresh_seed)
    x, weight, bias = torch.randn(1, 5, 6), torch.randn(6), torch.randn(6)
    changed = x.clone()
    changed[:, 3] *= 100
    moved = (group_norm(changed, 2, weight, bias) != group_norm(x, 2, weight, bias)).any(-1)[0]
    assert moved.tolist() == [False, False, False, True, False]
    through_time = F.group_norm(changed.mT, 2, weight, bias) != F.group_norm(x.mT, 2, weight, bias)
    assert through_time.any(1)[0].all(), "and torch's, on (B, D, T), lets every token see every other"


def test_groups_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="n_groups=4"):
        group_norm(torch.ones(2, 6), 4, torch.ones(6), torch.zeros(6))
