r"""The 8-bit cache: no feature further off than half a step, no score further than algebra allows."""

import random

import pytest
import torch

from minillm.inference.caches import int8
from minillm.inference.quantization import rows
from minillm.layers import sdpa
from tests.inference.caches.models import CONFIGS, drawn_ids, model_of


def test_attention_is_off_by_no_more_than_its_algebra(fresh_seed):
    r"""|q.k' - q.k| <= |q|_1 scale / 2; and shares change by at most exp(2 e) where no score moves further than e."""
    torch.manual_seed(fresh_seed)
    q, k, v = (torch.randn(1, 2, n, 8, dtype=torch.float64) for n in (3, 20, 20))
    cache = int8.Int8Cache(1, 20, ((2, 8), (2, 8)))
    k_near, v_near, _ = cache.append(k, v, torch.arange(20))
    k_scale, v_scale = (rows.quantize_rows(part)[1].double()[..., 0] for part in (k, v))
    moved = (q @ (k_near - k).transpose(-1, -2)).abs()
    bound = q.abs().sum(dim=-1, keepdim=True) * k_scale[:, :, None] / 2
    assert bool((moved <= bound * 1.001).all())
    assert float((moved / bound).max()) > 0.05  # the bound is not a wide one
    e = float(bound.max()) / 8**0.5
    furthest = 2.718281828459045 ** (2 * e) - 1
    most = furthest * v.abs().max() + v_scale.max() / 2 * (1 + furthest)
    assert bool(((sdpa.sdpa(q, k_near, v_near) - sdpa.sdpa(q, k, v)).abs() <= most).all())


@pytest.mark.parametrize("kind", list(CONFIGS))
def test_chunks_do_not_change_what_comes_back(kind, fresh_seed):
    model, token_ids, draw = model_of(kind), drawn_ids(fresh_seed, 2, 12), random.Random(fresh_seed)
    real = torch.ones(2, 12, dtype=torch.bool)
    real[1, : draw.randint(0, 4)] = False
    runs = []
    with torch.no_grad():
        for _ in range(2):
            caches, pieces, start = int8.int8_caches(model, 2, 12), [], 0
            while start < 12:
                end = draw.randint(start + 1, 12)
                pieces.append(model(token_ids[:, start:end], real[:, :end], cache=caches))
                start = end
            runs.append(torch.cat(pieces, dim=1)[real])
        exact = model(token_ids, real)[real]
    # a last bit may tip a feature over to the next step, so the two runs may differ by some rounding, seldom
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-2, atol=5e-2)
    assert 0 < float((runs[0] - exact).abs().max())
    assert float((runs[0] - exact).norm() / exact.norm()) < 0.1


def test_limits():
    cache = int8.Int8Cache(1, 3, ((2, 4), (2, 4)))
    two = torch.ones(1, 2, 2, 4)
    got, _, positions = cache.append(two.bfloat16(), two.bfloat16(), torch.tensor([-1, 0]))
    assert got.dtype == torch.bfloat16 and positions.tolist() == [[-1, 0]]
    with pytest.raises(ValueError, match="more than capacity=3"):
        cache.append(two, two, torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="this cache takes"):
        cache.append(two[:, :1], two[:, :1], torch.tensor([1, 2]))
    assert cache.length == 2
    with pytest.raises(ValueError, match="capacity=0"):
        int8.Int8Cache(1, 0, ((2, 4), (2, 4)))
