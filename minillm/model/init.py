r"""Fresh weights."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from minillm.config import ModelConfig
from minillm.layers import deepnorm


def init_weights(
    name: str,
    shape: Sequence[int],
    n_layers: int,
    *,
    embedding_std: float = 0.02,
    linear_std: float = 0.02,
    residual: str = "scaled",
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""The starting value of one parameter, told by its name.

    Norm weights are 1 and biases 0. Embeddings and matrices are normal. The last matrix of each residual branch
    (o_proj, down_proj) is smaller: 2 * n_layers branches add up, and a sum of that many independent terms grows like
    the root of their number.

    Args:
        name: dotted parameter name, e.g. `blocks.0.attn.o_proj.weight`.
        shape: of the parameter.
        n_layers: L, blocks in the model.
        embedding_std: for tok_emb and pos_emb.
        linear_std: for every other matrix.
        residual: o_proj and down_proj get `scaled` (linear_std / sqrt(2 L)), `zero`, or `plain` (linear_std).
        generator: source of randomness; None means torch's global one.
    Returns: float32 of the given shape.
    Raises:
        ValueError: if residual is none of the three.
    Source: Radford et al. 2019 (GPT-2), section 2.3; zero: Goyal et al. 2017, section 5.1 (there for norm weights).
    Lesson: 07.
    """
    if residual not in ("scaled", "zero", "plain"):
        raise ValueError(f"residual={residual!r}: use 'scaled', 'zero' or 'plain'")
    if name.endswith("bias"):
        return torch.zeros(*shape)
    if "norm" in name:
        return torch.ones(*shape)
    std = embedding_std if "emb" in name else linear_std
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        std *= {"scaled": 1 / math.sqrt(2 * n_layers), "zero": 0.0, "plain": 1.0}[residual]
    return torch.randn(*shape, generator=generator) * std


def fill_fresh(model: nn.Module, config: ModelConfig, generator: torch.Generator | None = None) -> None:
    r"""Give every parameter of a model its starting value, in place.

    With DeepNorm, the matrices that carry content (v_proj, o_proj and the FFN's) are beta times as large.

    Args:
        model: the model; changed.
        config: its configuration.
        generator: source of randomness; None means torch's global one.
    Source: see `init_weights`; DeepNorm: Wang et al. 2022, DeepNet, figure 2.
    Lesson: 07.
    """
    fresh = config.init
    beta = deepnorm.deepnorm_constants(config.n_layers)[1] if config.residual == "deepnorm" else 1.0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(init_weights(
                name, parameter.shape, config.n_layers, embedding_std=fresh.embedding_std,
                linear_std=fresh.linear_std, residual=fresh.residual, generator=generator))
            if name.endswith(("v_proj.weight", "o_proj.weight")) or (".ffn." in name and name.endswith("proj.weight")):
                parameter.mul_(beta)
