r"""Ring attention: a sequence too long for one device, shared out over several that hand keys and values round.

A device is here a call of `ring_attention`. What it hands on, and what it gets, goes through `exchange`: between real
processes that is the network (minillm.training.ring), in `simulate_ring` it is a look into the other devices' blocks.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minillm.layers import blockwise, flash
from minillm.layers.tiles import PositionTable

Block = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class DeviceCount:
    r"""What one device of a ring holds and sends.

    Args:
        kv_bytes: of the keys and values it holds at a time; a second block of that size is on its way.
        sent_bytes: of all that it hands on, positions included.
        score_pairs: pairs of a query and a key that it may not skip, as its mask says.
    Lesson: 03.
    """

    kv_bytes: int
    sent_bytes: int
    score_pairs: int


def ring_attention(
    q: Float[Tensor, "*batch t Dh"],
    k: Float[Tensor, "*batch t Dh"],
    v: Float[Tensor, "*batch t Dv"],
    positions: Int[Tensor, "*b t"],
    n_devices: int,
    exchange: Callable[[Block], Block],
    mask_rule: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[Float[Tensor, "*batch t Dv"], Float[Tensor, "*batch t"]]:
    r"""What one device does: its own queries meet every block of keys and values, one after the other.

    Args:
        q: this device's queries, (..., t, Dh), float.
        k: its keys at the beginning, (..., t, Dh), float.
        v: its values at the beginning, (..., t, Dv), float.
        positions: of its tokens, (t,) or (B, t), int; they travel with the keys, so that a mask can be made anywhere.
        n_devices: how many stand in the ring.
        exchange: hands the block (k, v, kv_positions) to the next device and gives the one from the device before;
            called n_devices - 1 times.
        mask_rule: (q_positions, kv_positions) -> bool (..., Tq, Tk), such as masks.causal_mask; None = no mask.
    Returns: attention of its queries to all keys, (..., t, Dv), dtype of q; and the log-sum-exp, (..., t).
    Source: Liu, Zaharia and Abbeel 2023, Ring Attention with Blockwise Transformers, section 3 and algorithm 1. There
        the next block travels while this one is computed; here a device waits.
    Lesson: 03.
    """
    block = (k, v, positions)
    out, lse = None, None
    for step in range(n_devices):
        if step > 0:
            block = exchange(block)
        keys, values, kv_positions = block
        mask = None if mask_rule is None else PositionTable(mask_rule, positions, kv_positions)
        found = flash.flash_with_lse(q, keys, values, mask)
        out, lse = found if out is None else blockwise.merge_attention(out, lse, *found)
    return out, lse


def simulate_ring(
    q: Float[Tensor, "*batch T Dh"],
    k: Float[Tensor, "*batch T Dh"],
    v: Float[Tensor, "*batch T Dv"],
    shares: list[Tensor],
    mask_rule: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[Float[Tensor, "*batch T Dv"], list[DeviceCount]]:
    r"""Run every device of a ring on this one, with the tokens shared out as asked, and count.

    The devices run one after the other; that is possible because a block of keys and values is never changed on its
    way, so what a device would be handed is known beforehand.

    Args:
        q: queries, (..., T, Dh), float; token t has position t.
        k: keys, (..., T, Dh), float.
        v: values, (..., T, Dv), float.
        shares: the positions that each device holds, int; together each of 0..T-1 once (see contiguous_shares).
        mask_rule: (q_positions, kv_positions) -> bool (Tq, Tk); None = no mask.
    Returns: attention of all queries, (..., T, Dv), in the order of q; and a count for each device.
    Raises:
        ValueError: if the shares are not the positions 0..T-1, each once.
    Source: Liu, Zaharia and Abbeel 2023, section 3.
    Lesson: 03.
    """
    everyone = torch.cat(shares)
    if not torch.equal(everyone.sort().values, torch.arange(q.shape[-2], device=everyone.device)):
        raise ValueError(f"shares holds {everyone.tolist()[:12]}...: give each of 0..{q.shape[-2] - 1} to one device")
    blocks = [(k[..., share, :], v[..., share, :], share) for share in shares]
    outs, counts = [], []
    for rank, share in enumerate(shares):
        sent: list[int] = []

        def exchange(block: Block, rank: int = rank, sent: list[int] = sent) -> Block:
            sent.append(sum(part.nbytes for part in block))
            return blocks[(rank - len(sent)) % len(shares)]

        outs.append(ring_attention(q[..., share, :], *blocks[rank], len(shares), exchange, mask_rule)[0])
        seen = [len(share) * len(x) if mask_rule is None else int(mask_rule(share, x).sum()) for x in shares]
        counts.append(DeviceCount(sum(part.nbytes for part in blocks[rank][:2]), sum(sent), sum(seen)))
    return torch.cat(outs, dim=-2)[..., everyone.argsort(), :], counts


def contiguous_shares(seq_len: int, n_devices: int) -> list[Int[Tensor, "t"]]:
    r"""Give each device a stretch of the sequence.

    Args:
        seq_len: T.
        n_devices: how many share it.
    Returns: the positions of each device, in order.
    Raises:
        ValueError: if the sequence cannot be shared out evenly.
    Source: Liu, Zaharia and Abbeel 2023, section 3.
    Lesson: 03.
    """
    if seq_len % n_devices:
        raise ValueError(f"seq_len={seq_len}: blocks of one size go round, use a multiple of {n_devices}")
    return list(torch.arange(seq_len).chunk(n_devices))


def zigzag_shares(seq_len: int, n_devices: int) -> list[Int[Tensor, "t"]]:
    r"""Give each device a stretch from the front and its mirror image from the back.

    Under a causal mask late queries have much to read and early ones little; so every device has the same work.

    Args:
        seq_len: T.
        n_devices: how many share it.
    Returns: the positions of each device.
    Raises:
        ValueError: if the sequence cannot be cut into 2 * n_devices equal stretches.
    Source: the balancing of causal work is from Brandon et al. 2023, Striped Attention, section 3, which deals tokens
        out in turn; stretches in mirrored pairs are what later implementations use.
    Lesson: 03.
    """
    if seq_len % (2 * n_devices):
        raise ValueError(f"seq_len={seq_len}: for pairs of equal stretches use a multiple of {2 * n_devices}")
    stretches = torch.arange(seq_len).chunk(2 * n_devices)
    return [torch.cat([stretches[rank], stretches[-1 - rank]]) for rank in range(n_devices)]
