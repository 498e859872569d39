r"""Ring attention between real processes: the blocks of keys and values go over the network."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from minillm.layers import ring
from minillm.layers.ring import Block
from minillm.training.processes import run_processes


def hand_on(block: Block, rank: int, n_processes: int) -> Block:
    r"""Send a block to the next process of the ring while the one from the process before comes in.

    Args:
        block: keys, values and their positions.
        rank: of this process.
        n_processes: how many stand in the ring.
    Returns: the block of the process before, of the same shapes and dtypes.
    Lesson: 03.
    """
    received = tuple(torch.empty_like(part) for part in block)
    sends = [dist.isend(part.contiguous(), (rank + 1) % n_processes) for part in block]
    for part in received:
        dist.recv(part, (rank - 1) % n_processes)
    for send in sends:
        send.wait()
    return received


def ring_process(
    rank: int,
    n_processes: int,
    q: Float[Tensor, "*batch T Dh"],
    k: Float[Tensor, "*batch T Dh"],
    v: Float[Tensor, "*batch T Dv"],
    shares: list[Tensor],
    mask_rule: Callable[[Tensor, Tensor], Tensor] | None,
) -> tuple[Float[Tensor, "*batch t Dv"], int]:
    r"""One process of the ring: it keeps its own share, computes, and counts the bytes that it sends.

    Args:
        rank: of this process.
        n_processes: how many stand in the ring.
        q: queries, (..., T, Dh), float.
        k: keys, (..., T, Dh), float.
        v: values, (..., T, Dv), float.
        shares: the positions that each process holds.
        mask_rule: (q_positions, kv_positions) -> bool (Tq, Tk); None = no mask.
    Returns: attention of its own queries, (..., t, Dv), and the bytes that went out.
    Lesson: 03.
    """
    own, sent = shares[rank], []

    def exchange(block: Block) -> Block:
        sent.append(sum(part.nbytes for part in block))
        return hand_on(block, rank, n_processes)

    with torch.no_grad():  # what comes in over the network has no history
        mine = [x[..., own, :].contiguous() for x in (q, k, v)]
        out, _ = ring.ring_attention(*mine, own, n_processes, exchange, mask_rule)
    return out, sum(sent)


def ring_over_processes(
    q: Float[Tensor, "*batch T Dh"],
    k: Float[Tensor, "*batch T Dh"],
    v: Float[Tensor, "*batch T Dv"],
    shares: list[Tensor],
    mask_rule: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[Float[Tensor, "*batch T Dv"], list[int]]:
    r"""Ring attention in as many processes as there are shares; without gradients.

    Each process is handed the whole sequence and keeps its share, which is what a demonstration can afford.

    Args:
        q: queries, (..., T, Dh), float; token t has position t.
        k: keys, (..., T, Dh), float.
        v: values, (..., T, Dv), float.
        shares: the positions that each process holds, int; together each of 0..T-1 once.
        mask_rule: (q_positions, kv_positions) -> bool (Tq, Tk), defined in a module; None = no mask.
    Returns: attention of all queries, (..., T, Dv), in the order of q; and the bytes that each process has sent.
    Lesson: 03.
    """
    inputs = [x.detach() for x in (q, k, v)]
    outs, sent = zip(*run_processes(ring_process, len(shares), *inputs, shares, mask_rule), strict=True)
    return torch.cat(outs, dim=-2)[..., torch.cat(shares).argsort(), :], list(sent)
