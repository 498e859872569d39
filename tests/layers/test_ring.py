r"""A ring of devices against attention on one; what it holds and sends, counted."""

import queue
import threading

import pytest
import torch

from minillm.course.ledger import MemoryLedger
from minillm.layers import masks, sdpa
from minillm.layers.ring import contiguous_shares, ring_attention, simulate_ring, zigzag_shares

EXACT = {"rtol": 1e-10, "atol": 1e-10}
SHARES = {"contiguous": contiguous_shares, "zigzag": zigzag_shares}
RULES = {"none": None, "causal": masks.causal_mask, "sliding": lambda a, b: masks.sliding_window_mask(a, b, 7)}


def draw(seed, seq_len):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, seq_len, d, generator=g, dtype=torch.float64).requires_grad_() for d in (4, 4, 5)], g


@pytest.mark.parametrize("n_devices", [1, 2, 3, 4])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("share", SHARES.values(), ids=SHARES)
def test_ring_equals_attention_on_one_device(n_devices, rule, share, fresh_seed):
    (q, k, v), g = draw(fresh_seed, 24)
    positions = torch.arange(24)
    want = sdpa.sdpa(q, k, v, None if rule is None else rule(positions, positions))
    got, _ = simulate_ring(q, k, v, share(24, n_devices), rule)
    torch.testing.assert_close(got, want, **EXACT)
    grad_out = torch.randn(want.shape, generator=g, dtype=torch.float64)
    for a, b in zip(*(torch.autograd.grad(out, (q, k, v), grad_out) for out in (got, want)), strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def test_what_a_device_holds_and_sends():
    (q, k, v), _ = draw(0, 24)
    _, counts = simulate_ring(q, k, v, contiguous_shares(24, 4), masks.causal_mask)
    whole = k.nbytes + v.nbytes
    for count in counts:
        assert count.kv_bytes == whole // 4
        # Three times round: keys, values, and the 6 positions as int64.
        assert count.sent_bytes == 3 * (whole // 4 + 6 * 8)
    assert [count.score_pairs for count in counts] == [21, 57, 93, 129]
    assert sum(count.score_pairs for count in counts) == 24 * 25 // 2
    _, balanced = simulate_ring(q, k, v, zigzag_shares(24, 4), masks.causal_mask)
    assert [count.score_pairs for count in balanced] == [75] * 4
    _, unmasked = simulate_ring(q, k, v, contiguous_shares(24, 4))
    assert [count.score_pairs for count in unmasked] == [6 * 24] * 4


def test_four_times_the_sequence_on_four_times_the_devices_takes_no_more_memory_a_device():
    peaks = {}
    for seq_len, n_devices in ((384, 3), (1536, 12)):
        t = seq_len // n_devices
        q, k, v = (torch.randn(1, 2, t, 16) for _ in range(3))
        with MemoryLedger() as ledger:
            ring_attention(q, k, v, torch.arange(t), n_devices, lambda block: tuple(x.clone() for x in block))
        peaks[seq_len] = ledger.peak_bytes
        assert ledger.largest == 2 * 64 * 64, "a tile of scores"
    assert peaks[1536] == peaks[384]


def test_devices_that_run_at_once_and_really_hand_on(fresh_seed):
    r"""The simulation knows beforehand what a device will be handed; here every block goes from hand to hand."""
    (q, k, v), _ = draw(fresh_seed, 18)
    q, k, v = (x.detach() for x in (q, k, v))
    shares, boxes = contiguous_shares(18, 3), [queue.Queue() for _ in range(3)]
    outs = [None] * 3

    def device(rank):
        def exchange(block):
            boxes[(rank + 1) % 3].put(block)
            return boxes[rank].get(timeout=20)

        own = [x[..., shares[rank], :] for x in (q, k, v)]
        outs[rank] = ring_attention(*own, shares[rank], 3, exchange, masks.causal_mask)[0]

    threads = [threading.Thread(target=device, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    positions = torch.arange(18)
    want = sdpa.sdpa(q, k, v, masks.causal_mask(positions, positions))
    torch.testing.assert_close(torch.cat(outs, -2), want, **EXACT)


def test_shares_cover_the_sequence_once_and_odd_lengths_are_refused():
    for n_devices in (1, 2, 5):
        for share in SHARES.values():
            assert torch.equal(torch.cat(share(20, n_devices)).sort().values, torch.arange(20))
    assert [x.tolist() for x in zigzag_shares(8, 2)] == [[0, 1, 6, 7], [2, 3, 4, 5]]
    with pytest.raises(ValueError, match="seq_len=10: .* multiple of 4"):
        contiguous_shares(10, 4)
    with pytest.raises(ValueError, match="seq_len=12: .* multiple of 8"):
        zigzag_shares(12, 4)
    (q, k, v), _ = draw(0, 4)
    with pytest.raises(ValueError, match="give each of 0..3 to one device"):
        simulate_ring(q, k, v, [torch.tensor([0, 1]), torch.tensor([1, 2])])
