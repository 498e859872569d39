r"""Tensor parallelism: every matrix is split over the ranks, and a block takes two sums over all ranks.

    x  ->  up, split by rows        ->  activation  ->  down, split by columns  ->  sum over ranks
    x  ->  q, k, v, split by heads  ->  attention   ->  o, split by columns     ->  sum over ranks

(Rows and columns of the stored weight, (d_out, d_in). The paper writes x A, so that its columns are our rows.) The
first split gives each rank some of the hidden features, whole, so that the activation needs nobody else. The second
makes of them a summand of the output.
"""

from collections.abc import Callable

from jaxtyping import Bool, Float
from torch import Tensor

from minillm.layers import multi_head


def mlp_shard(
    x: Float[Tensor, "*batch D"],
    up_weight: Float[Tensor, "F D"],
    up_bias: Float[Tensor, "F"],
    down_weight: Float[Tensor, "D F"],
    down_bias: Float[Tensor, "D"],
    rank: int,
    n_ranks: int,
    act: Callable[[Tensor], Tensor],
    all_reduce: Callable[[Tensor], Tensor],
) -> Float[Tensor, "*batch D"]:
    r"""One rank's work on an MLP whose F hidden features are split over the ranks.

    It is handed the whole weights and uses its own part: F / n_ranks hidden features that follow each other.

    Args:
        x: the same on every rank, (..., D), float.
        up_weight: (F, D), as in nn.Linear.
        up_bias: (F,).
        down_weight: (D, F).
        down_bias: (D,).
        rank: of this process, from 0.
        n_ranks: how many there are; divides F.
        act: an activation, feature by feature.
        all_reduce: adds up a tensor over all ranks and gives everybody the sum; to be called once.
    Returns: down(act(up(x))), (..., D), the same on every rank.
    Raises:
        ValueError: if n_ranks does not divide F.
    Source: Shoeybi et al. 2019, Megatron-LM, section 3, figure 3a.
    Lesson: 08.
    """
    d_ff = up_weight.shape[0]
    if d_ff % n_ranks:
        raise ValueError(f"n_ranks={n_ranks} does not divide d_ff={d_ff}: choose a divisor, or pad the hidden width")
    size = d_ff // n_ranks
    own = slice(rank * size, (rank + 1) * size)
    hidden = act(x @ up_weight[own].T + up_bias[own])
    return all_reduce(hidden @ down_weight[:, own].T) + down_bias


def attention_shard(
    x: Float[Tensor, "B T D"],
    w_q: Float[Tensor, "HDh D"],
    w_k: Float[Tensor, "HDh D"],
    w_v: Float[Tensor, "HDh D"],
    w_o: Float[Tensor, "D HDh"],
    n_heads: int,
    rank: int,
    n_ranks: int,
    all_reduce: Callable[[Tensor], Tensor],
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "B T D"]:
    r"""One rank's work on multi-head attention whose heads are split over the ranks.

    Args:
        x: the same on every rank, (B, T, D), float.
        w_q: (H * Dh, D), the whole, as in nn.Linear.
        w_k: (H * Dh, D).
        w_v: (H * Dh, D).
        w_o: (D, H * Dh).
        n_heads: H, of all ranks together.
        rank: of this process, from 0.
        n_ranks: how many there are; divides H.
        all_reduce: adds up a tensor over all ranks and gives everybody the sum.
        mask: broadcasts to (B, heads of a rank, T, T), bool, True = may attend.
    Returns: (B, T, D), the same on every rank.
    Raises:
        ValueError: if n_ranks does not divide n_heads.
    Source: Shoeybi et al. 2019, Megatron-LM, section 3, figure 3b.
    Lesson: 08.
    """
    if n_heads % n_ranks:
        raise ValueError(f"n_ranks={n_ranks} does not divide n_heads={n_heads}: a head cannot be split")
    w_q, w_k, w_v = (w.chunk(n_ranks)[rank] for w in (w_q, w_k, w_v))
    own_o = w_o.chunk(n_ranks, dim=1)[rank]
    return all_reduce(multi_head.multi_head_attention(x, w_q, w_k, w_v, own_o, n_heads // n_ranks, mask))
