r"""Which model has which norm where, and how one finds out by measuring instead of reading."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NormDesign:
    r"""The norms of a family of models.

    Args:
        kind: `layer` or `rms`.
        place: `pre` or `post`.
        source: where its authors say so.
    """

    kind: str
    place: str
    source: str


# Each line is compared with the model's class in Hugging Face's transformers by a test.
CENSUS = {
    "GPT-1": NormDesign("layer", "post", "Radford et al. 2018, figure 1"),
    "BERT": NormDesign("layer", "post", "Devlin et al. 2019, section 3, by Vaswani et al. 2017"),
    "XLNet": NormDesign("layer", "post", "Yang et al. 2019, appendix A.2"),
    "GPT-2": NormDesign("layer", "pre", "Radford et al. 2019, section 2.3"),
    "T5": NormDesign("rms", "pre", "Raffel et al. 2020, section 2.1"),
    "LLaMA": NormDesign("rms", "pre", "Touvron et al. 2023, section 2.2"),
}


def ends_in_a_norm(stream: Tensor, tolerance: float = 1e-2) -> bool:
    r"""Whether every token of a fresh model's stream has mean square 1, as it has just behind a norm.

    Args:
        stream: (..., D), from a model whose norms have weight 1 and bias 0.
        tolerance: how far from 1 is still 1; eps is in it.
    Returns: True behind a norm, so after a block of a post-norm model.
    """
    return bool((stream.double().square().mean(dim=-1) - 1).abs().max() < tolerance)


def norm_kind(norm: Callable[[Tensor], Tensor], width: int) -> str:
    r"""Which norm it is: add the same number to all features and look whether it notices.

    Args:
        norm: on (..., width).
        width: D.
    Returns: `layer`, which subtracts the mean and so does not notice, or `rms`.
    """
    x = torch.randn(4, width, generator=torch.Generator().manual_seed(0))
    return "layer" if torch.allclose(norm(x + 3.0), norm(x), atol=1e-3) else "rms"
