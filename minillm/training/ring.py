r"""Ring attention between real processes: the blocks of keys and values go over the network."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from minillm.layers import ring
from minillm.layers.ring import Block
from minillm.training.wires import Wire, run_ranks


def ring_process(
    wire: Wire,
    q: Float[Tensor, "*batch T Dh"],
    k: Float[Tensor, "*batch T Dh"],
    v: Float[Tensor, "*batch T Dv"],
    shares: list[Tensor],
    mask_rule: Callable[[Tensor, Tensor], Tensor] | None,
) -> tuple[Float[Tensor, "*batch t Dv"], int]:
    r"""One process of the ring: it keeps its own share, computes, and counts the bytes that it sends.

    Args:
        wire: to the other processes.
        q: queries, (..., T, Dh), float.
        k: keys, (..., T, Dh), float.
        v: values, (..., T, Dv), float.
        shares: the positions that each process holds.
        mask_rule: (q_positions, kv_positions) -> bool (Tq, Tk); None = no mask.
    Returns: attention of its own queries, (..., t, Dv), and the bytes that went out.
    Lesson: 03.
    """
    own = shares[wire.rank]

    def exchange(block: Block) -> Block:
        return tuple(wire.pass_on(part) for part in block)

    with torch.no_grad():  # what comes in over the network has no history
        mine = [x[..., own, :].contiguous() for x in (q, k, v)]
        out, _ = ring.ring_attention(*mine, own, wire.n_ranks, exchange, mask_rule)
    return out, wire.sent.total()


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
    outs, sent = zip(*run_ranks(ring_process, len(shares), *inputs, shares, mask_rule, processes=True), strict=True)
    return torch.cat(outs, dim=-2)[..., torch.cat(shares).argsort(), :], list(sent)
