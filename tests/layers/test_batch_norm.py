r"""BatchNorm, both of its functions, against torch's."""

import pytest
import torch
from torch import nn

from minillm.layers.batch_norm import BatchNorm, batch_norm_eval, batch_norm_train


def test_batch_norm_follows_torch_through_training_and_evaluation(fresh_seed):
    torch.manual_seed(fresh_seed)
    d_model = int(torch.randint(2, 9, ()))
    ours, torchs = BatchNorm(d_model, eps=1e-3, momentum=0.3), nn.BatchNorm1d(d_model, eps=1e-3, momentum=0.3)
    for module in (ours, torchs):
        module.weight.data.copy_(torch.linspace(-1, 2, d_model))
        module.bias.data.copy_(torch.linspace(3, 1, d_model))
    for rows in (2, 5, 9):
        x = torch.randn(rows, 4, d_model) * 3 + torch.arange(d_model)
        torch.testing.assert_close(ours(x), torchs(x.transpose(1, 2)).transpose(1, 2))
        torch.testing.assert_close(ours.running_mean, torchs.running_mean)
        torch.testing.assert_close(ours.running_var, torchs.running_var)
    ours.eval(), torchs.eval()
    one = torch.randn(1, d_model)
    torch.testing.assert_close(ours(one), torchs(one))
    torch.testing.assert_close(
        batch_norm_eval(one, ours.running_mean, ours.running_var, ours.weight, ours.bias, 1e-3), torchs(one)
    )


def test_in_training_a_sample_depends_on_its_batch_and_in_evaluation_not(fresh_seed):
    torch.manual_seed(fresh_seed)
    module, x = BatchNorm(4), torch.randn(6, 4)
    other = torch.cat([x[:1], 10 * x[1:]])
    assert (module(x)[0] - module(other)[0]).abs().max() > 1e-3
    module.eval()
    assert torch.equal(module(x)[0], module(other)[0])


def test_a_single_row_and_a_wrong_momentum_are_refused():
    with pytest.raises(ValueError, match="1 row"):
        batch_norm_train(torch.ones(1, 3), torch.ones(3), torch.zeros(3))
    with pytest.raises(ValueError, match="momentum=0"):
        BatchNorm(3, momentum=0.0)
