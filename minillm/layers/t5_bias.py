r"""T5's relative bias: distances are sorted into buckets, and each bucket has a trained number for every head."""

import math

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from minillm.layers import pairwise


def t5_bucket(
    relative_position: Int[Tensor, "*shape"], n_buckets: int = 32, max_distance: int = 128, bidirectional: bool = False
) -> Int64[Tensor, "*shape"]:
    r"""The bucket of each distance: near ones have a bucket each, far ones share, and the last one takes all the rest.

    With 32 buckets and max_distance 128, looking back: distances 0 to 15 have buckets 0 to 15, then 16 buckets of
    growing width go up to distance 127, and everything from there on is in bucket 31.

    Args:
        relative_position: key's position - query's position, int; negative = the key stands before the query.
        n_buckets: buckets in all; a bidirectional model spends half of them on keys that stand after the query.
        max_distance: from here on there is one bucket; more than half of the buckets of a direction.
        bidirectional: whether later keys have buckets of their own; False: they count as distance 0.
    Returns: int64 of the same shape, 0 to n_buckets - 1.
    Raises:
        ValueError: if there are too few buckets or max_distance is too small for them.
    Source: Raffel et al. 2019, T5, section 2.1; the rounding is that of their published code.
    Lesson: 04.
    """
    n_each = n_buckets // 2 if bidirectional else n_buckets
    n_exact = n_each // 2
    if n_exact < 1:
        raise ValueError(f"n_buckets={n_buckets}: use at least {4 if bidirectional else 2}")
    if max_distance <= n_exact:
        raise ValueError(f"max_distance={max_distance}: {n_exact} distances have a bucket each, use more than that")
    later = (relative_position > 0).long() * n_each if bidirectional else 0
    distance = relative_position.abs() if bidirectional else (-relative_position).clamp(min=0)
    share = (distance.clamp(min=1).float() / n_exact).log() / math.log(max_distance / n_exact)
    far = (n_exact + (share * (n_each - n_exact)).long()).clamp(max=n_each - 1)
    return later + torch.where(distance < n_exact, distance, far)


class T5RelativeBias(nn.Module):
    r"""The trained bias, one number a bucket and head; in T5 all layers share one such module.

    Args:
        n_heads: H.
        n_buckets: as in `t5_bucket`.
        max_distance: as in `t5_bucket`.
        bidirectional: as in `t5_bucket`.
    Source: Raffel et al. 2019, T5, section 2.1. T5 also leaves out 1 / sqrt(Dh); that is the attention's choice.
    Lesson: 04.
    """

    def __init__(self, n_heads: int, n_buckets: int = 32, max_distance: int = 128, bidirectional: bool = False):
        super().__init__()
        self.n_buckets, self.max_distance, self.bidirectional = n_buckets, max_distance, bidirectional
        self.per_bucket = nn.Embedding(n_buckets, n_heads)

    def forward(
        self, q_positions: Int[Tensor, "*bq Tq"], kv_positions: Int[Tensor, "*bk Tk"]
    ) -> Float[Tensor, "*out H Tq Tk"]:
        r"""The bias to add to the scores.

        Args:
            q_positions: (Tq,) or (B, Tq), int.
            kv_positions: (Tk,) or (B, Tk), int.
        Returns: (H, Tq, Tk) or (B, H, Tq, Tk).
        """
        relative_position = -pairwise.broadcast_pairwise(q_positions, kv_positions)
        buckets = t5_bucket(relative_position, self.n_buckets, self.max_distance, self.bidirectional)
        return self.per_bucket(buckets).movedim(-1, -3)
