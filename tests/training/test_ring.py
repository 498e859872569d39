r"""Ring attention in two real processes against attention in one."""

import torch

from minillm.layers import masks, ring, sdpa
from minillm.training.ring import ring_over_processes


def test_two_processes_equal_one_and_the_simulation(fresh_seed):
    g = torch.Generator().manual_seed(fresh_seed)
    q, k, v = (torch.randn(2, 3, 40, d, generator=g, dtype=torch.float64) for d in (4, 4, 5))
    positions = torch.arange(40)
    shares = ring.zigzag_shares(40, 2)
    out, sent = ring_over_processes(q, k, v, shares, masks.causal_mask)
    want = sdpa.sdpa(q, k, v, masks.causal_mask(positions, positions))
    torch.testing.assert_close(out, want, rtol=1e-10, atol=1e-10)
    simulated, counts = ring.simulate_ring(q, k, v, shares, masks.causal_mask)
    assert torch.equal(out, simulated)
    # Once round: 20 tokens of keys and values, and their positions.
    assert sent == [count.sent_bytes for count in counts] == [2 * 3 * 20 * (4 + 5) * 8 + 20 * 8] * 2
