r"""QK-norm against torch's RMSNorm, and the bound against random and worst queries and keys."""

import torch

from minillm.layers.qk_norm import qk_norm, qk_norm_bound
from minillm.layers.rope import apply_rope, rope_angles


def test_qk_norm_is_rms_norm_over_each_head_s_features(fresh_seed):
    torch.manual_seed(fresh_seed)
    q, k = torch.randn(2, 4, 5, 6) * 50, torch.randn(2, 2, 7, 6) * 0.01
    norms = [torch.nn.RMSNorm(6, eps=1e-6) for _ in range(2)]
    for norm in norms:
        torch.nn.init.normal_(norm.weight)
    normal_q, normal_k = qk_norm(q, k, norms[0].weight, norms[1].weight)
    torch.testing.assert_close(normal_q, norms[0](q))
    torch.testing.assert_close(normal_k, norms[1](k))


def test_scores_keep_within_the_bound_and_reach_it(fresh_seed):
    torch.manual_seed(fresh_seed)
    head_dim = 2 * int(torch.randint(1, 10, ()))
    q_weight, k_weight = torch.randn(head_dim).double(), torch.randn(head_dim).double()
    bound = qk_norm_bound(q_weight, k_weight)
    angles = rope_angles(torch.arange(50), head_dim).double()
    for size in (1e-2, 1.0, 1e6):
        q, k = (torch.randn(50, head_dim).double() * size for _ in range(2))
        q, k = qk_norm(q, k, q_weight, k_weight)
        for left, right in ((q, k), (apply_rope(q, angles), apply_rope(k, angles))):
            assert float((left @ right.T).abs().max() / head_dim**0.5) <= float(bound) * (1 + 1e-9)
    # the worst case: both vectors all in one feature, which has the largest weight of both
    feature = int(q_weight.abs().argmax())
    k_weight[feature] = 9.0
    worst = torch.nn.functional.one_hot(torch.tensor(feature), head_dim).double()[None] * 1e6
    q, k = qk_norm(worst, worst, q_weight, k_weight)
    torch.testing.assert_close((q @ k.T).abs().squeeze() / head_dim**0.5, qk_norm_bound(q_weight, k_weight))
