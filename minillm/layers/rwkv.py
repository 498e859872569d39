r"""RWKV's attention: no queries, but a decay for each channel, so that the past fits into two sums."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

State = tuple[Tensor, Tensor, Tensor]


def wkv_step(
    k: Float[Tensor, "*batch C"],
    v: Float[Tensor, "*batch C"],
    decay: Float[Tensor, "C"],
    bonus: Float[Tensor, "C"],
    state: State | None = None,
) -> tuple[Float[Tensor, "*batch C"], State]:
    r"""One token of wkv, and the sums for the next one.

    The state is (numerator, denominator, largest): the two sums over the past divided by exp(largest), where largest
    is the largest exponent so far. Nothing in it ever overflows, and neither does a quotient of the two.

    Args:
        k: this token's keys, (..., C), float.
        v: its values, (..., C).
        decay: by how much the past fades at each step, (C,), at least 0; their w.
        bonus: added to the exponent of the present token, (C,); their u.
        state: of the past, three tensors (..., C); None = nothing yet.
    Returns: (..., C), dtype of v, and the new state.
    Source: Peng et al. 2023, RWKV, section 3.1.2 and equation 16; the running maximum: appendix "Time-mixing
        block as an RNN cell".
    Lesson: 03.
    """
    if state is None:
        state = (torch.zeros_like(v), torch.zeros_like(v), torch.full_like(k, torch.finfo(k.dtype).min / 4))
    numerator, denominator, largest = state
    here = torch.maximum(largest, bonus + k)
    past, present = (largest - here).exp(), (bonus + k - here).exp()
    out = (past * numerator + present * v) / (past * denominator + present)
    largest_next = torch.maximum(largest - decay, k)
    past, present = (largest - decay - largest_next).exp(), (k - largest_next).exp()
    return out, (past * numerator + present * v, past * denominator + present, largest_next)


def wkv_recurrent(
    k: Float[Tensor, "*batch T C"], v: Float[Tensor, "*batch T C"], decay: Float[Tensor, "C"], bonus: Float[Tensor, "C"]
) -> Float[Tensor, "*batch T C"]:
    r"""wkv of a whole sequence, one token after the other: O(T) steps over a state of three numbers a channel.

    Args:
        k: keys, (..., T, C), float.
        v: values, (..., T, C).
        decay: (C,), at least 0.
        bonus: (C,).
    Returns: (..., T, C), dtype of v.
    Source: Peng et al. 2023, RWKV, equation 16 and section 3.2.
    Lesson: 03.
    """
    state, outputs = None, []
    for step in range(k.shape[-2]):
        out, state = wkv_step(k[..., step, :], v[..., step, :], decay, bonus, state)
        outputs.append(out)
    return torch.stack(outputs, dim=-2)


def wkv_parallel(
    k: Float[Tensor, "*batch T C"], v: Float[Tensor, "*batch T C"], decay: Float[Tensor, "C"], bonus: Float[Tensor, "C"]
) -> Float[Tensor, "*batch T C"]:
    r"""The same for all tokens at once, by doubling: sums over 1, 2, 4, ... tokens, log2(T) rounds.

    In each round every token joins its sums with those that end `span` tokens earlier and have faded since. The
    exponents carry a maximum with them, as in `wkv_step`.

    Args:
        k: keys, (..., T, C), float.
        v: values, (..., T, C).
        decay: (C,), at least 0.
        bonus: (C,).
    Returns: (..., T, C), dtype of v.
    Source: Peng et al. 2023, RWKV, equation 16; the doubling is Hillis and Steele 1986, Data Parallel Algorithms, for
        partial sums.
    Lesson: 03.
    """
    numerator, denominator, largest = v, torch.ones_like(v), k
    span = 1
    while span < k.shape[-2]:
        earlier = [_later(part, span) for part in (numerator, denominator)]
        faded = _later(largest, span, torch.finfo(k.dtype).min / 4) - span * decay
        joined = torch.maximum(largest, faded)
        own, other = (largest - joined).exp(), (faded - joined).exp()
        numerator, denominator = own * numerator + other * earlier[0], own * denominator + other * earlier[1]
        largest, span = joined, 2 * span
    before = [_later(part, 1) for part in (numerator, denominator)]
    faded = _later(largest, 1, torch.finfo(k.dtype).min / 4)
    here = torch.maximum(faded, bonus + k)
    past, present = (faded - here).exp(), (bonus + k - here).exp()
    return (past * before[0] + present * v) / (past * before[1] + present)


def _later(x: Tensor, steps: int, fill: float = 0.0) -> Tensor:
    r"""Every token gets what stood `steps` tokens before it, and the first ones `fill`."""
    return torch.cat([torch.full_like(x[..., :steps, :], fill), x[..., :-steps, :]], dim=-2)


class RwkvTimeMix(nn.Module):
    r"""RWKV's replacement for attention: wkv of keys and values, let through by a gate, the receptance.

    Each of the three is made from a mixture of this token and the one before (token shift).

    Args:
        d_model: D; keys and values have one channel for each.
        n_layers: L, of the model, for the starting decays.
        layer: which block this is, from 0.
    Source: Peng et al. 2023, RWKV, section 3.1; starting values as in its appendix "Parameter initializations", but
        with one mixture for all three and no zigzag in the bonus.
    Lesson: 03.
    """

    def __init__(self, d_model: int, n_layers: int = 1, layer: int = 0):
        super().__init__()
        share = layer / max(n_layers - 1, 1)
        ramp = torch.arange(d_model) / max(d_model - 1, 1)
        self.log_decay = nn.Parameter(-5 + 8 * ramp ** (0.7 + 1.3 * share))
        self.bonus = nn.Parameter(torch.full((d_model,), 0.3).log())
        # r, k and v take so much of the present token, the rest of the one before
        self.mix = nn.Parameter((torch.arange(d_model) / d_model).expand(3, -1) ** (1 - layer / n_layers))
        self.r_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        self.o_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        positions: Int[Tensor, "*b T"],
        angles: Float[Tensor, "*b T half"] | None = None,
        cache: Any = None,
    ) -> Float[Tensor, "B T D"]:
        r"""Let each token read from the past.

        Args:
            x: (B, T, D), float.
            positions: (T,) or (B, T), int; -1 = padding. Only that is used: the decays know the order.
            angles: not used.
            cache: None; this layer has a state, not a list of keys.
        Returns: (B, T, D), dtype of x.
        Raises:
            ValueError: if a cache is given.
        """
        if cache is not None:
            raise ValueError("cache: RWKV keeps no keys; carry wkv_step's state from step to step")
        padding = (positions < 0).expand(x.shape[:2])[..., None]
        x = x.masked_fill(padding, 0.0)
        before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
        mixed = [x * share + before * (1 - share) for share in self.mix]
        r, k, v = (proj(part) for proj, part in zip((self.r_proj, self.k_proj, self.v_proj), mixed, strict=True))
        k = k.masked_fill(padding, torch.finfo(k.dtype).min / 4)
        out = wkv_parallel(k, v, self.log_decay.exp(), self.bonus)
        return self.o_proj((r.sigmoid() * out).masked_fill(padding, 0.0))
