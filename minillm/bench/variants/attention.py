r"""Attention variants: what they cost and what they lose, in one small model with one budget."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from minillm.bench.variants import harness
from minillm.bench.variants.harness import BASE, Row
from minillm.config import AttentionOptions, Learned, Mla, ModelConfig, NoPosition
from minillm.layers import attention_cost, gqa_conversion
from minillm.layers.attention_cost import AttentionSizes
from minillm.layers.infini import InfiniAttention
from minillm.layers.linear_attention import LinearAttention
from minillm.layers.rwkv import RwkvTimeMix
from minillm.model import init
from minillm.model.gpt import GPT
from minillm.training.loop import train

SIZES = AttentionSizes(
    d_model=BASE.d_model, n_heads=BASE.n_heads, head_dim=BASE.head_dim, n_kv_heads=2, kv_rank=24, rope_dim=8, window=16,
    segment_len=16)
LONG = 4096  # tokens, for what is kept of a long text
HEALING = 0.1  # share of the steps that a converted model is trained further


@dataclass(frozen=True)
class AttentionVariant:
    r"""A model and the kind of its costs.

    Args:
        kind: one of `attention_cost.KINDS`.
        config: the model; its attention may be replaced.
        layer: index of a block -> the layer that replaces its attention; None = nothing is replaced.
    """

    kind: str
    config: ModelConfig
    layer: Callable[[int], nn.Module] | None = None


WIDTH = (BASE.d_model, BASE.n_heads, BASE.head_dim)
VARIANTS = {
    "MHA": AttentionVariant("MHA", BASE),
    "GQA, 2 key heads": AttentionVariant("GQA", replace(BASE, n_kv_heads=SIZES.n_kv_heads)),
    "MQA": AttentionVariant("MQA", replace(BASE, n_kv_heads=1)),
    "MLA": AttentionVariant("MLA", replace(BASE, attention=Mla(SIZES.kv_rank, SIZES.rope_dim))),
    "window 16": AttentionVariant("window", replace(BASE, attention=AttentionOptions(window=SIZES.window))),
    "Infini, segments of 16": AttentionVariant(
        "Infini", BASE, lambda layer: InfiniAttention(*WIDTH, segment_len=SIZES.segment_len)),
    "MHA, learned positions": AttentionVariant("MHA", replace(BASE, position=Learned())),
    "linear, learned positions": AttentionVariant(
        "linear", replace(BASE, position=Learned()), lambda layer: LinearAttention(*WIDTH)),
    "MHA, no positions": AttentionVariant("MHA", replace(BASE, position=NoPosition())),
    "RWKV": AttentionVariant(
        "RWKV", replace(BASE, position=NoPosition()), lambda layer: RwkvTimeMix(BASE.d_model, BASE.n_layers, layer)),
}


def build_variant(variant: AttentionVariant, seed: int) -> GPT:
    r"""A fresh model, with its attention replaced if the variant says so.

    Args:
        variant: what to build.
        seed: of the weights; what is not replaced is the same for all variants.
    Returns: the model; matrices start as everywhere, decays and gates as their layer says.
    """
    model = GPT(variant.config, torch.Generator().manual_seed(seed))
    if variant.layer is None:
        return model
    generator, fresh = torch.Generator().manual_seed(seed + 1), variant.config.init
    for layer, block in enumerate(model.blocks):
        block.attn = variant.layer(layer)
        for name, parameter in block.attn.named_parameters():
            if name.endswith("proj.weight"):
                start = init.init_weights(
                    name, parameter.shape, len(model.blocks), linear_std=fresh.linear_std, residual=fresh.residual,
                    generator=generator)
                parameter.detach().copy_(start)
    return model


def train_built(model: GPT, seed: int, steps: int | None = None) -> GPT:
    r"""Train a model that is built already, as `harness.train_variant` does.

    Args:
        model: is trained in place.
        seed: of the batches.
        steps: of training; None = `harness.STEPS`.
    Returns: the model.
    """
    steps = harness.STEPS if steps is None else steps
    batches = harness.text_batches(seed, harness.TRAIN_LEN, harness.BATCH_SIZE)
    train(model, batches, harness.small_recipe(steps), steps=steps, report_every=steps)
    return model


def costs_of(kind: str) -> dict[str, int]:
    r"""What one layer of a kind costs at this table's sizes, from `attention_cost`.

    Args:
        kind: one of `attention_cost.KINDS`.
    Returns: weights; numbers kept after 64 and after `LONG` tokens; operations for one new token after those.
    """
    costs = {"weights": attention_cost.attention_weights_count(kind, SIZES)}
    for kv_len in (harness.TRAIN_LEN, LONG):
        costs[f"kept at {kv_len}"] = attention_cost.kept_floats(kind, SIZES, kv_len)
        costs[f"step at {kv_len}"] = attention_cost.step_flops(kind, SIZES, kv_len)
    return costs


def convert_to_grouped(model: GPT, n_kv_heads: int) -> GPT:
    r"""The same model with fewer key/value heads, each the mean of a group.

    Args:
        model: with n_heads key/value heads; it is not changed.
        n_kv_heads: of the new one, divides n_heads.
    Returns: a new model, in evaluation mode.
    """
    other = GPT(replace(model.config, n_kv_heads=n_kv_heads))
    other.load_state_dict(gqa_conversion.pool_state(model.state_dict(), model.config.n_heads, n_kv_heads))
    return other.eval()


def measure_attention(variant: AttentionVariant, seed: int) -> dict[str, Any]:
    r"""Train at `harness.TRAIN_LEN` and measure there; for plain MHA also what becomes of it when heads are pooled.

    Args:
        variant: what to train.
        seed: of the run.
    Returns: loss in nats a character, costs, and for the first variant `pooled to N`, `healed to N`: the loss after
        conversion to N key heads, and after a tenth of the steps more.
    """
    model = train_built(build_variant(variant, seed), seed)
    numbers = {"loss": harness.mean_loss(model), **costs_of(variant.kind)}
    if variant is VARIANTS["MHA"]:
        for n_kv_heads in (2, 1):
            pooled = convert_to_grouped(model, n_kv_heads)
            numbers[f"pooled to {n_kv_heads}"] = harness.mean_loss(pooled)
            healed = train_built(pooled, seed + 1000, int(HEALING * harness.STEPS))
            numbers[f"healed to {n_kv_heads}"] = harness.mean_loss(healed)
    return numbers


def attention_table(seeds: Sequence[int]) -> list[Row]:
    r"""Every attention variant trained alike, with what it costs.

    Args:
        seeds: one run of each variant a seed.
    Returns: the rows.
    """
    return harness.run_table("attention", VARIANTS, seeds, measure_attention)
