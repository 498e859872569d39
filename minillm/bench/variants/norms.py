r"""Norms: which kind, in which place; on the small model, and on one of 48 thin layers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from minillm.bench.variants import harness
from minillm.bench.variants.harness import BASE, Row
from minillm.config import AttentionOptions, Init, Mlp, ModelConfig, Norm
from minillm.layers import recorder
from minillm.layers.batch_norm import BatchNorm
from minillm.model.gpt import GPT
from minillm.training.loop import train
from minillm.training.recipe import Recipe

# No zeros and no small last matrices in the branches: such an init would do a part of the norm's work.
SMALL = replace(BASE, init=Init(0.1, 0.05, "plain"))
DEEP = replace(
    BASE, max_seq_len=32, d_model=32, n_layers=48, n_heads=2, n_kv_heads=2, ffn=Mlp(128), tie_embeddings=False,
    init=Init(1.0, 0.15, "plain"))
SMALL_STEPS = 200  # half of the other tables': kinds of norms are told apart early or not at all
DEEP_LEN, DEEP_BATCH, DEEP_STEPS, DEEP_RATE = 32, 8, 120, 2e-3
NORM_NAMES = ("attn_norm", "ffn_norm", "final_norm")


@dataclass(frozen=True)
class NormVariant:
    r"""A model of the table.

    Args:
        config: its configuration.
        swap: what to put in the place of every norm, by width; None leaves the configuration's.
    """

    config: ModelConfig
    swap: Callable[[int], nn.Module] | None = None


KINDS = {
    "pre, LayerNorm": NormVariant(SMALL),
    "pre, RMSNorm": NormVariant(replace(SMALL, norm=Norm("rms"))),
    "pre, RMSNorm, QK-norm": NormVariant(
        replace(SMALL, norm=Norm("rms"), attention=AttentionOptions(qk_norm=True))),
    "pre, BatchNorm": NormVariant(SMALL, BatchNorm),
    "pre, no norm": NormVariant(SMALL, nn.Identity),
    "post, LayerNorm": NormVariant(replace(SMALL, residual="post")),
    "sandwich, LayerNorm": NormVariant(replace(SMALL, residual="sandwich")),
    "DeepNorm, LayerNorm": NormVariant(replace(SMALL, residual="deepnorm")),
}
DEEP_PLACES = {
    "48 layers, pre": NormVariant(DEEP),
    "48 layers, post": NormVariant(replace(DEEP, residual="post")),
    "48 layers, sandwich": NormVariant(replace(DEEP, residual="sandwich")),
    "48 layers, DeepNorm": NormVariant(replace(DEEP, residual="deepnorm")),
    "48 layers, no norm": NormVariant(DEEP, nn.Identity),
}


def fresh_variant(variant: NormVariant, seed: int) -> GPT:
    r"""The model with fresh weights.

    Args:
        variant: which.
        seed: of the weights.
    Returns: a GPT, whose norms have been swapped if the variant says so.
    """
    model = GPT(variant.config, torch.Generator().manual_seed(seed))
    if variant.swap is not None:
        for module in list(model.modules()):
            for name in NORM_NAMES:
                if isinstance(getattr(module, name, None), nn.Module):
                    setattr(module, name, variant.swap(variant.config.d_model))
    return model


def trained_loss(variant: NormVariant, seed: int, train_len: int, batch_size: int, steps: int, recipe: Recipe) -> float:
    r"""Train a variant and measure it on the validation text.

    Args:
        variant: which.
        seed: of weights and batches.
        train_len: T.
        batch_size: B.
        steps: of training.
        recipe: how.
    Returns: nats a character, on 256 windows.
    """
    model = fresh_variant(variant, seed)
    train(model, harness.text_batches(seed, train_len, batch_size), recipe, steps=steps, report_every=steps)
    windows = harness.text_windows("validation", train_len, 256)
    return float(harness.loss_by_position(model.eval(), windows, 64).mean())


def depth_readings(variant: NormVariant, seed: int) -> dict[str, Any]:
    r"""What a fresh model's stream and gradients do, block by block.

    Args:
        variant: which.
        seed: of weights and batch.
    Returns: `variance by depth`: of the stream over its features, relative to the embedding's, a number for the
        embedding and one for each block; `gradient, first / last`: the norms of the gradients of the two blocks'
        up_proj; `first loss`, in nats.
    """
    model = fresh_variant(variant, seed)
    inputs, targets = next(harness.text_batches(seed, DEEP_LEN, DEEP_BATCH))
    with recorder.record("residual") as tape:
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    sizes = [float(stream.var(dim=-1, correction=0).mean()) for stream in tape["residual"]]
    loss.backward()
    first, last = (float(model.blocks[i].ffn.up_proj.weight.grad.norm()) for i in (0, -1))
    return {
        "variance by depth": [size / sizes[0] for size in sizes],
        "variance, last / first": sizes[-1] / sizes[0],
        "gradient, first / last": first / last,
        "first loss": float(loss.detach()),
    }


def measure_norm(variant: NormVariant, seed: int) -> dict[str, Any]:
    r"""The loss of a small variant; of a deep one, its fresh state, and its loss without and with a warm-up.

    A deep model without norms is not trained: its first loss has eleven digits, and some seeds end in nan.

    Args:
        variant: which.
        seed: of the run.
    Returns: measure -> value.
    """
    if variant.config.n_layers == SMALL.n_layers:
        recipe = harness.small_recipe(SMALL_STEPS)
        return {"loss": trained_loss(variant, seed, harness.TRAIN_LEN, harness.BATCH_SIZE, SMALL_STEPS, recipe)}
    plain = Recipe(learning_rate=DEEP_RATE, warmup_steps=0, dtype="fp32", max_norm=math.inf)
    readings = depth_readings(variant, seed)
    if variant.swap is not None:
        return readings
    for name, recipe in (("no warm-up", plain), ("warm-up", replace(plain, warmup_steps=DEEP_STEPS // 2))):
        readings[f"loss, {name}"] = trained_loss(variant, seed, DEEP_LEN, DEEP_BATCH, DEEP_STEPS, recipe)
    return readings


def norms_table(seeds: Sequence[int]) -> list[Row]:
    r"""Kinds of norms and their places, at equal steps.

    Args:
        seeds: one run of each variant a seed.
    Returns: the rows.
    """
    return harness.run_table("norms", KINDS | DEEP_PLACES, seeds, measure_norm)
