r"""T5's buckets against Hugging Face's T5, and what they promise."""

import math
import random

import pytest
import torch

from minillm.layers.t5_bias import T5RelativeBias, t5_bucket


def test_buckets_are_those_of_hugging_face(fresh_seed):
    modeling = pytest.importorskip("transformers.models.t5.modeling_t5")
    draw = random.Random(fresh_seed)
    for _ in range(40):
        bidirectional = draw.random() < 0.5
        n_buckets = draw.choice([4, 7, 8, 16, 32, 33, 64])
        max_distance = draw.choice([64, 128, draw.randint(40, 1000)])
        relative = torch.arange(-1500, 1500)[torch.randperm(3000)].view(3, -1)
        want = modeling.T5Attention._relative_position_bucket(relative, bidirectional, n_buckets, max_distance)
        got = t5_bucket(relative, n_buckets, max_distance, bidirectional)
        assert torch.equal(got, want), (n_buckets, max_distance, bidirectional)


def test_near_distances_have_a_bucket_each_and_far_ones_share():
    past = -torch.arange(0, 400)
    buckets = t5_bucket(past, 32, 128, False)
    assert buckets[:16].tolist() == list(range(16))
    assert (buckets.diff() >= 0).all() and buckets[127] == 31 and (buckets[128:] == 31).all()
    edges = [math.ceil(16 * 8 ** (b / 16) - 1e-6) for b in range(16)]  # equal steps of the logarithm from 16 to 128
    assert [int((buckets >= 16 + b).nonzero()[0]) for b in range(16)] == edges
    assert (t5_bucket(-past, 32, 128, False) == 0).all(), "a causal model has no bucket for what comes later"
    both = t5_bucket(torch.tensor([-3, 3]), 32, 128, True)
    assert both.tolist() == [3, 19]


def test_the_module_looks_up_a_number_for_each_head(fresh_seed):
    torch.manual_seed(fresh_seed)
    bias = T5RelativeBias(3, 8, 20, bidirectional=True)
    q_positions, kv_positions = torch.randint(-1, 60, (2, 4)), torch.randint(-1, 60, (2, 5))
    got = bias(q_positions, kv_positions)
    assert got.shape == (2, 3, 4, 5)
    for b, h, i, j in torch.cartesian_prod(*map(torch.arange, got.shape)).tolist():
        bucket = t5_bucket(kv_positions[b, j] - q_positions[b, i], 8, 20, True)
        assert got[b, h, i, j] == bias.per_bucket.weight[bucket, h]
    assert bias(q_positions[0], kv_positions[0]).shape == (3, 4, 5)


def test_too_few_buckets_are_refused():
    for arguments, message in (((1, 128, False), "n_buckets=1"), ((3, 128, True), "n_buckets=3"),
                               ((32, 16, False), "max_distance=16")):
        with pytest.raises(ValueError, match=message):
            t5_bucket(torch.arange(3), *arguments)
