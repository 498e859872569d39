r"""Feed-forward networks: activations and gates with equally many weights, experts with equally many active ones."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from minillm.bench.variants import harness
from minillm.bench.variants.harness import BASE, Row
from minillm.config import Experts, Glu, Init, Mlp, ModelConfig
from minillm.layers import gated, recorder
from minillm.model.gpt import GPT

D_FF = BASE.ffn.d_ff
N_EXPERTS, TOP_K = 8, 2


@dataclass(frozen=True)
class FfnVariant:
    r"""A model, and what its training adds to the loss for the balance of experts.

    Args:
        config: the model.
        balance: `Recipe.balance`.
    """

    config: ModelConfig
    balance: float = 0.0


def mlp_variant(activation: str) -> FfnVariant:
    r"""Two matrices.

    Args:
        activation: between the two.
    Returns: the variant.
    """
    return FfnVariant(replace(BASE, ffn=Mlp(D_FF, activation)))


def glu_variant(activation: str) -> FfnVariant:
    r"""Three matrices with as many weights as the two of `mlp_variant`.

    Args:
        activation: on the gate.
    Returns: the variant.
    """
    return FfnVariant(replace(BASE, ffn=Glu(gated.equal_param_width(D_FF), activation)))


def experts_variant(balance: float, capacity_factor: float | None = None) -> FfnVariant:
    r"""Experts with SwiGLU, of which those that a token uses have as many weights as the MLP.

    Args:
        balance: coefficient of the balancing loss.
        capacity_factor: None = no expert refuses a token.
    Returns: the variant.
    """
    d_ff = gated.equal_param_width(D_FF) // TOP_K
    return FfnVariant(replace(BASE, ffn=Experts(N_EXPERTS, TOP_K, d_ff, capacity_factor=capacity_factor)), balance)


def wide_start(variant: FfnVariant) -> FfnVariant:
    r"""The same with first weights three times as large, so that the bends meet numbers of order 1.

    Args:
        variant: as it stands in the table.
    Returns: the variant.
    """
    init = BASE.init
    wide = Init(init.embedding_std, 3 * init.linear_std, init.residual)
    return replace(variant, config=replace(variant.config, init=wide))


FFNS = {
    "no bend (identity)": mlp_variant("identity"),
    "ReLU": mlp_variant("relu"),
    "ReLU squared": mlp_variant("relu_squared"),
    "GELU": mlp_variant("gelu"),
    "Swish": mlp_variant("silu"),
    "bilinear": glu_variant("identity"),
    "GLU": glu_variant("sigmoid"),
    "ReGLU": glu_variant("relu"),
    "GeGLU": glu_variant("gelu"),
    "SwiGLU": glu_variant("silu"),
    "ReLU, wide start": wide_start(mlp_variant("relu")),
    "GELU, wide start": wide_start(mlp_variant("gelu")),
    "Swish, wide start": wide_start(mlp_variant("silu")),
    "GLU, wide start": wide_start(glu_variant("sigmoid")),
    "SwiGLU, wide start": wide_start(glu_variant("silu")),
    "MoE": experts_variant(0.01),
    "MoE, wide start": wide_start(experts_variant(0.01)),
    "MoE, balance 0": experts_variant(0.0),
    "MoE, capacity 1": experts_variant(0.01, capacity_factor=1.0),
    "MoE, balance 0, capacity 1": experts_variant(0.0, capacity_factor=1.0),
}


def ffn_weights(config: ModelConfig) -> tuple[int, int]:
    r"""Weights of one FFN.

    Args:
        config: with any kind of FFN.
    Returns: how many there are, and how many of them one token meets; a router counts in both.
    """
    ffn, width = config.ffn, config.d_model
    if isinstance(ffn, Experts):
        router, expert = ffn.n_experts * width, 3 * width * ffn.d_ff
        return router + ffn.n_experts * expert, router + ffn.top_k * expert
    n_weights = (3 if isinstance(ffn, Glu) else 2) * width * ffn.d_ff
    return n_weights, n_weights


def routing_numbers(model: GPT, n_windows: int = 64) -> dict[str, float]:
    r"""How evenly the experts of a trained model are used, in the layer where they are used least evenly.

    Args:
        model: with experts.
        n_windows: of validation text.
    Returns: `crowded`: the share of the choices that the most popular expert gets (1 / E if fair, 1 / K at worst);
        `idle`: experts that get less than a tenth of their fair share; `dropped`: the share of the choices that
        experts of capacity 1 would refuse, whether or not the model was trained so.
    """
    windows = harness.text_windows("validation", harness.TRAIN_LEN, n_windows)
    with torch.inference_mode(), recorder.record("router_indices") as tape:
        model(windows[:, :-1])
    layers = [indices.flatten().bincount(minlength=N_EXPERTS) for indices in tape["router_indices"]]
    fair = layers[0].sum().item() / N_EXPERTS
    return {
        "crowded": max(float(counts.max() / counts.sum()) for counts in layers),
        "idle": float(max((counts < 0.1 * fair).sum() for counts in layers)),
        "dropped": max(float((counts - fair).clamp(min=0).sum() / counts.sum()) for counts in layers),
    }


def measure_ffn(variant: FfnVariant, seed: int) -> dict[str, Any]:
    r"""Train, and measure on the validation text.

    Args:
        variant: what to train.
        seed: of the run.
    Returns: the loss in nats a character, the weights of one FFN, and for experts how they are used.
    """
    recipe = replace(harness.small_recipe(harness.STEPS), balance=variant.balance)
    model = harness.train_variant(variant.config, seed, recipe=recipe)
    n_weights, n_active = ffn_weights(variant.config)
    numbers = {"loss": harness.mean_loss(model), "weights": n_weights, "active": n_active}
    return {**numbers, **(routing_numbers(model) if isinstance(variant.config.ffn, Experts) else {})}


def ffn_table(seeds: Sequence[int]) -> list[Row]:
    r"""Every activation and gate with the same number of weights, and experts with the same number of active ones.

    Args:
        seeds: one run of each variant a seed.
    Returns: the rows.
    """
    return harness.run_table("ffn", FFNS, seeds, measure_ffn)
