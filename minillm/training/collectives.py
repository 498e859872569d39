r"""What many ranks do together, out of handing tensors round a ring: add up, share out, gather.

    reduce-scatter                          all-gather
    everybody has a whole vector;           everybody has one share of a vector;
    each ends with one share of the sum     each ends with the whole vector

One after the other they make an all-reduce: everybody ends with the whole sum. In each of the two a rank sends
(n - 1) / n of the vector, however many ranks there are.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from minillm.training.wires import Wire


def share_size(n_numbers: int, n_ranks: int) -> int:
    r"""How many numbers of a vector one rank holds, when the ranks share it out equally.

    Args:
        n_numbers: length of the vector.
        n_ranks: how many share it.
    Returns: n_numbers / n_ranks, rounded up: the last shares may be padding in part.
    Lesson: 08.
    """
    return -(-n_numbers // n_ranks)


def padded_vector(x: Float[Tensor, "..."], n_ranks: int) -> Float[Tensor, "M"]:
    r"""A tensor as one vector that n_ranks can share out equally: zeros are added at the end.

    Args:
        x: any shape, float.
        n_ranks: how many share it.
    Returns: (n_ranks * share_size,), dtype of x.
    Lesson: 08.
    """
    return F.pad(x.reshape(-1), (0, n_ranks * share_size(x.numel(), n_ranks) - x.numel()))


def own_share(x: Float[Tensor, "..."], rank: int, n_ranks: int) -> Float[Tensor, "n"]:
    r"""The stretch of a tensor's numbers that belongs to a rank, with zeros where the tensor has ended.

    Args:
        x: any shape, float.
        rank: whose share.
        n_ranks: how many share it.
    Returns: (share_size,), a copy, dtype of x.
    Lesson: 08.
    """
    return padded_vector(x, n_ranks).chunk(n_ranks)[rank].clone()


def reduce_scatter(x: Float[Tensor, "..."], wire: Wire) -> Float[Tensor, "n"]:
    r"""Add up a tensor over all ranks; each keeps its own share of the sum.

    A share of the sum travels round the ring. It starts at the rank after its owner, everybody adds what they have,
    and it arrives at its owner last.

    Args:
        x: this rank's summand, of the same shape on all ranks, float.
        wire: to the other ranks; (n - 1) / n of the numbers are sent.
    Returns: (share_size,), dtype of x.
    Source: Patarasuk and Yuan 2009, Bandwidth Optimal All-reduce Algorithms for Clusters of Workstations.
    Lesson: 08.
    """
    parts = padded_vector(x, wire.n_ranks).chunk(wire.n_ranks)
    total = parts[(wire.rank - 1) % wire.n_ranks]
    for step in range(1, wire.n_ranks):
        total = wire.pass_on(total) + parts[(wire.rank - 1 - step) % wire.n_ranks]
    return total


def all_gather(share: Float[Tensor, "n"], wire: Wire) -> Float[Tensor, "M"]:
    r"""Put the shares of all ranks together, in the order of the ranks; everybody gets the whole.

    Args:
        share: this rank's, of the same length on all ranks.
        wire: to the other ranks; n - 1 shares are sent.
    Returns: (n_ranks * n,), dtype of share.
    Source: Patarasuk and Yuan 2009, Bandwidth Optimal All-reduce Algorithms for Clusters of Workstations.
    Lesson: 08.
    """
    shares, moving = {wire.rank: share}, share
    for step in range(1, wire.n_ranks):
        moving = wire.pass_on(moving)
        shares[(wire.rank - step) % wire.n_ranks] = moving
    return torch.cat([shares[rank] for rank in range(wire.n_ranks)])


def all_reduce(x: Float[Tensor, "*shape"], wire: Wire) -> Float[Tensor, "*shape"]:
    r"""Add up a tensor over all ranks; everybody gets the whole sum, the same to the last bit.

    Args:
        x: this rank's summand, of the same shape on all ranks, float.
        wire: to the other ranks; 2 (n - 1) / n of the numbers are sent.
    Returns: the sum, shape and dtype of x.
    Source: Patarasuk and Yuan 2009, Bandwidth Optimal All-reduce Algorithms for Clusters of Workstations.
    Lesson: 08.
    """
    return all_gather(reduce_scatter(x, wire), wire)[: x.numel()].view(x.shape)
