r"""Transformer-XL's relative positions: scores of four terms, made from contents and from a sinusoid of the distance.

Multiply out (content + position of the query) . (content + position of the key), and replace what is absolute:

    q . k        content with content               as always
    q . r        content with distance              "what follows a verb three tokens later?"
    u . k        content of the key alone           a trained vector u in place of the query's position
    w . r        distance alone                     a trained vector w in place of the query's position

where r is a projected sinusoid of the distance. XLNet uses the same four terms.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from minillm.layers import heads, pairwise, rope
from minillm.layers.reading import read_and_report


def distance_sinusoids(
    distances: Int[Tensor, "*shape"], d_model: int, base: float = 10000.0
) -> Float[Tensor, "*shape D"]:
    r"""The sinusoid of a distance, which may be negative: `sinusoidal` without its rule for padding.

    Args:
        distances: query's position - key's position, int.
        d_model: D, even.
        base: the wavelengths run from 2 pi to 2 pi * base.
    Returns: (..., D) float32, sines at even features, cosines at odd ones.
    Source: Dai et al. 2019, Transformer-XL, section 3.3 (their R).
    Lesson: 04.
    """
    angles = distances[..., None].float() * rope.rope_inv_freq(d_model, base).to(distances.device)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def xl_position_scores(
    q: Float[Tensor, "B H Tq Dh"],
    r: Float[Tensor, "H n Dh"],
    pick: Int64[Tensor, "*b Tq Tk"],
    position_bias: Float[Tensor, "H Dh"],
) -> Float[Tensor, "B H Tq Tk"]:
    r"""The two terms that know the distance: (q + w) . r, unscaled.

    A query meets each of n distances once, and every pair picks its own from there.

    Args:
        q: queries, (B, H, Tq, Dh), float.
        r: projected sinusoids of n distances, (H, n, Dh).
        pick: which of them belongs to each pair, (Tq, Tk) or (B, Tq, Tk), int64.
        position_bias: w, (H, Dh).
    Returns: (B, H, Tq, Tk), dtype of q.
    Source: Dai et al. 2019, Transformer-XL, section 3.3, terms (b) and (d).
    Lesson: 04.
    """
    every_distance = (q + position_bias[:, None]) @ r.transpose(-2, -1)
    pick = pick if pick.dim() == 2 else pick[:, None]
    return every_distance.gather(-1, pick.expand(*q.shape[:-1], pick.shape[-1]))


def relative_shift(scores: Float[Tensor, "*batch Tq Tk"]) -> Float[Tensor, "*batch Tq Tk"]:
    r"""The published trick: pick each pair's distance without an index, by reading the memory with one more column.

    Comes in with a column for each distance, the furthest (Tk - 1) first and 0 last; goes out with a column for each
    key. Row i is shifted to the left by Tq - 1 - i. What comes in from the right belongs to the future: mask it.

    Args:
        scores: (..., Tq, Tk), column n for distance Tk - 1 - n; queries are the last Tq of Tk positions.
    Returns: (..., Tq, Tk), the same numbers; right where key j stands at or before query i + Tk - Tq.
    Source: Dai et al. 2019, Transformer-XL, appendix B, in the form of their published code.
    Lesson: 04.
    """
    q_len, kv_len = scores.shape[-2:]
    padded = F.pad(scores, (1, 0))  # a column of zeros on the left: each row is now one longer than it will be read
    return padded.flatten(-2)[..., q_len:].unflatten(-1, (q_len, kv_len))


class TransformerXLReading(nn.Module):
    r"""Transformer-XL's way to read, for `Attention`: scores of four terms.

    Args:
        d_model: D, width of the sinusoids, even.
        n_heads: H.
        head_dim: Dh.
    Source: Dai et al. 2019, Transformer-XL, section 3.3. Their u and v are content_bias and position_bias, one for each
        head and layer; their memory of the last segment is a cache whose gradients are cut.
    Lesson: 04.
    """

    def __init__(self, d_model: int, n_heads: int, head_dim: int):
        super().__init__()
        self.r_proj = nn.Linear(d_model, n_heads * head_dim, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(n_heads, head_dim))
        self.position_bias = nn.Parameter(torch.zeros(n_heads, head_dim))

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, kv_positions: Tensor, mask: Tensor
    ) -> Tensor:
        scale = q.shape[-1] ** -0.5
        attn_bias = xl_position_scores(q, *self._distances(positions, kv_positions), self.position_bias) * scale
        return read_and_report(q + self.content_bias[:, None], k, v, mask, attn_bias)

    def _distances(self, q_positions: Tensor, kv_positions: Tensor) -> tuple[Tensor, Tensor]:
        # Every distance from the smallest to the largest once, projected; and which of them each pair has.
        weight, n_heads = self.r_proj.weight, len(self.content_bias)
        distance = pairwise.broadcast_pairwise(q_positions, kv_positions)
        nearest = int(distance.min())
        every = torch.arange(nearest, int(distance.max()) + 1, device=weight.device)
        r = self.r_proj(distance_sinusoids(every, weight.shape[1]).to(weight.dtype))
        return heads.split_heads(r[None], n_heads)[0], distance - nearest
