r"""RoPE for texts longer than those trained on: five ways to slow the pairs down.

A pair that turned once or more during training has shown the model all its angles. A slow pair has not: beyond the
trained length it comes to angles that the model has never seen. All methods here slow the slow pairs down until they
stay within the angles known; they differ in what they do to the fast ones, which tell neighbours apart.

    method                    fastest pair      slowest pair      between
    position interpolation    / factor          / factor          / factor
    NTK-aware                 as it was         / factor          geometric, by a larger base
    dynamic NTK               as it was         / how much longer the text is now
    YaRN                      as it was         / factor          as it was, a ramp over some pairs, / factor
    LLaMA 3                   as it was         / factor          the same with a ramp over turns, not pairs
    LongRoPE                  a factor for each pair, found by search

`head_dim` here is the number of features that are turned: with partial rotary a share of the head.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from minillm.layers import rope


def interpolated_inv_freq(inv_freq: Float[Tensor, "half"], factor: float) -> Float[Tensor, "half"]:
    r"""Position interpolation: every pair slower by the factor, as if positions stood closer together.

    Args:
        inv_freq: (Dh / 2,), radians per token, from `rope.rope_inv_freq`.
        factor: by how much longer texts are to be, above 0.
    Returns: (Dh / 2,), dtype of inv_freq.
    Raises:
        ValueError: if factor is not positive.
    Source: Chen et al. 2023, Extending Context Window of Large Language Models via Position Interpolation, section 2.3.
    Lesson: 04.
    """
    return inv_freq / _positive(factor)


def ntk_base(base: float, factor: float, head_dim: int) -> float:
    r"""The base at which the slowest pair is slower by exactly the factor and the fastest is as fast as before.

    Pair i turns base^(-2i / Dh) radians a token. The fastest has i = 0, whatever the base; the slowest has
    2i = Dh - 2. So the base has to grow by factor^(Dh / (Dh - 2)).

    Args:
        base: of the trained model.
        factor: by how much longer texts are to be, above 0.
        head_dim: Dh, features that are turned, at least 4.
    Returns: the larger base.
    Raises:
        ValueError: if factor is not positive or head_dim less than 4.
    Source: bloc97 2023, "NTK-Aware Scaled RoPE"; written down in Peng et al. 2023, YaRN, section 3.1.
    Lesson: 04.
    """
    if head_dim < 4:
        raise ValueError(f"head_dim={head_dim}: the slowest pair must not be the fastest, use at least 4")
    return base * _positive(factor) ** (head_dim / (head_dim - 2))


def dynamic_ntk_base(base: float, factor: float, head_dim: int, seq_len: int, original_len: int) -> float:
    r"""An NTK-aware base that grows with the text: unchanged up to the trained length, larger with every token after.

    Args:
        base: of the trained model.
        factor: how fast the base grows; 1 gives each length just the `ntk_base` it needs.
        head_dim: Dh, features that are turned, at least 4.
        seq_len: length of the text so far.
        original_len: length in training.
    Returns: the base for this length. Keys cached at another length were turned by other angles.
    Raises:
        ValueError: if factor is not positive or head_dim less than 4.
    Source: emozilla 2023, "Dynamically Scaled RoPE"; the growth rule is that of Hugging Face's `dynamic`. Peng et al.
        2023, YaRN, section 3.3, has factor 1.
    Lesson: 04.
    """
    longer = max(seq_len, original_len) / original_len
    return ntk_base(base, _positive(factor) * longer - (factor - 1), head_dim)


def yarn_inv_freq(
    head_dim: int,
    base: float,
    factor: float,
    original_len: int,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
) -> Float[Tensor, "half"]:
    r"""YaRN: keep the pairs that turned often in training, interpolate those that did not turn once, mix between.

    Within original_len tokens pair i makes original_len * base^(-2i / Dh) / 2 pi turns. The ramp goes from the pair
    that makes beta_fast turns (kept) to the pair that makes beta_slow turns (interpolated).

    Args:
        head_dim: Dh, features that are turned, even.
        base: of the trained model.
        factor: by how much longer texts are to be, above 0.
        original_len: length in training.
        beta_fast: pairs with more turns than this are kept.
        beta_slow: pairs with fewer turns than this are interpolated; at most beta_fast.
        truncate: whether the ends of the ramp are moved outwards to whole pairs.
    Returns: (Dh / 2,) float32, radians per token.
    Raises:
        ValueError: if factor is not positive, beta_slow is above beta_fast, or no pair makes beta_slow turns.
    Source: Peng et al. 2023, YaRN, section 3.2 ("NTK-by-parts"). The ramp is linear in the index of the pair, as in
        their published code and in Hugging Face's; in the paper itself it is linear in the turns.
    Lesson: 04.
    """
    if beta_slow > beta_fast:
        raise ValueError(f"beta_slow={beta_slow}: must not be above beta_fast={beta_fast}")
    if original_len <= 2 * math.pi * beta_slow:
        raise ValueError(f"original_len={original_len}: not even the fastest pair makes beta_slow={beta_slow} turns in "
                         "it; use a smaller beta_slow, or position interpolation")
    start, end = (
        head_dim * math.log(original_len / (2 * math.pi * turns)) / (2 * math.log(base))
        for turns in (beta_fast, beta_slow)
    )
    if truncate:
        start, end = math.floor(start), math.ceil(end)
    start, end = max(start, 0), min(end, head_dim - 1)
    pairs = torch.arange(head_dim // 2, dtype=torch.float32)
    ramp = ((pairs - start) / (end - start or 0.001)).clamp(0, 1)
    kept = rope.rope_inv_freq(head_dim, base)
    return kept * (1 - ramp) + kept / _positive(factor) * ramp


def yarn_amplitude(factor: float, strength: float = 1.0) -> float:
    r"""By how much YaRN makes turned queries and keys larger, so that attention over a longer text stays as sharp.

    The scores grow with its square. A softmax over more keys is flatter; larger scores make up for it.

    Args:
        factor: by how much longer texts are to be.
        strength: how much of it; DeepSeek-V2 divides the amplitude of one strength (`mscale`) by that of another
            (`mscale_all_dim`).
    Returns: 0.1 * strength * ln(factor) + 1; 1 for a factor up to 1.
    Source: Peng et al. 2023, YaRN, section 3.4: the root of their 1 / t.
    Lesson: 04.
    """
    return 0.1 * strength * math.log(factor) + 1.0 if factor > 1 else 1.0


def llama3_inv_freq(
    inv_freq: Float[Tensor, "half"], factor: float, low_freq_factor: float, high_freq_factor: float, original_len: int
) -> Float[Tensor, "half"]:
    r"""LLaMA 3.1's scaling: as YaRN, with a ramp that is linear in the turns a pair makes within original_len.

    Args:
        inv_freq: (Dh / 2,), radians per token, from `rope.rope_inv_freq`.
        factor: by how much longer texts are to be, above 0.
        low_freq_factor: pairs with fewer turns than this are interpolated.
        high_freq_factor: pairs with more turns than this are kept; above low_freq_factor.
        original_len: length in training.
    Returns: (Dh / 2,), dtype of inv_freq.
    Raises:
        ValueError: if factor is not positive or high_freq_factor not above low_freq_factor.
    Source: Grattafiori et al. 2024, The Llama 3 Herd of Models, section 3.4.2; the rule itself is in the code published
        with LLaMA 3.1.
    Lesson: 04.
    """
    if high_freq_factor <= low_freq_factor:
        raise ValueError(f"high_freq_factor={high_freq_factor}: must be above low_freq_factor={low_freq_factor}")
    # In the order of the published code: at position 4000 the last bit of a frequency moves the logits.
    turns = original_len / (2 * math.pi / inv_freq)
    kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0, 1)
    return (1 - kept) * inv_freq / _positive(factor) + kept * inv_freq


def longrope_inv_freq(head_dim: int, base: float, factors: Float[Tensor, "half"]) -> Float[Tensor, "half"]:
    r"""LongRoPE: every pair slower by a factor of its own.

    Args:
        head_dim: Dh, features that are turned, even.
        base: of the trained model.
        factors: (Dh / 2,), one a pair, found by search; models come with a list for short texts and one for long.
    Returns: (Dh / 2,) float32, radians per token.
    Source: Ding et al. 2024, LongRoPE.
    Lesson: 04.
    """
    return rope.rope_inv_freq(head_dim, base) / factors


def longrope_amplitude(factor: float, original_len: int) -> float:
    r"""By how much LongRoPE makes turned queries and keys larger.

    Args:
        factor: by how much longer texts are to be.
        original_len: length in training, above 1.
    Returns: sqrt(1 + ln(factor) / ln(original_len)); 1 for a factor up to 1.
    Source: the code published with Phi-3 (Abdin et al. 2024), which is trained with LongRoPE.
    Lesson: 04.
    """
    return math.sqrt(1 + math.log(factor) / math.log(original_len)) if factor > 1 else 1.0


def proportional_inv_freq(
    head_dim: int, base: float, share: float = 1.0, factor: float = 1.0
) -> Float[Tensor, "half"]:
    r"""Partial rotary that keeps the pairs of the whole head: the fast ones turn, the rest stand still.

    Args:
        head_dim: Dh of the whole head, even.
        base: sets the slowest pair of the whole head.
        share: of the pairs that turn, from the fastest on, 0 to 1.
        factor: by which they are slower, above 0.
    Returns: (Dh / 2,) float32, radians per token; zeros for pairs that stand still.
    Raises:
        ValueError: if share is not between 0 and 1 or factor not positive.
    Source: Hugging Face transformers, RoPE type `proportional`. Other partial rotaries spread all their frequencies
        over the turned share.
    Lesson: 04.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share={share}: use a share of the pairs, 0 to 1")
    turned = torch.arange(head_dim // 2) < int(share * head_dim // 2)
    return rope.rope_inv_freq(head_dim, base) / _positive(factor) * turned


def _positive(factor: float) -> float:
    if not factor > 0:
        raise ValueError(f"factor={factor}: by how much longer texts are to be, use a number above 0, such as 4.0")
    return factor
