r"""The table of norms: what is swapped, what is read, and the stored numbers."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from minillm.bench.results import load_table
from minillm.bench.variants import norms
from minillm.bench.variants.norms import DEEP, DEEP_PLACES, KINDS, NormVariant
from minillm.layers.batch_norm import BatchNorm
from minillm.layers.norms import LayerNorm


def kinds_of_norms(model: nn.Module) -> set[type]:
    return {type(module) for module in model.modules() if isinstance(module, LayerNorm | BatchNorm | nn.Identity)}


def test_swapping_reaches_every_norm_and_nothing_else():
    plain = norms.fresh_variant(KINDS["pre, LayerNorm"], 3)
    swapped = norms.fresh_variant(KINDS["pre, BatchNorm"], 3)
    assert BatchNorm not in kinds_of_norms(plain)
    assert LayerNorm not in kinds_of_norms(swapped) and BatchNorm in kinds_of_norms(swapped)
    weights = [model.state_dict()["blocks.1.ffn.up_proj.weight"] for model in (plain, swapped)]
    assert torch.equal(*weights), "the same seed gives the same matrices"
    none = norms.fresh_variant(KINDS["pre, no norm"], 3)
    assert not any("norm" in name for name, _ in none.named_parameters())


def test_readings_of_a_shallow_stack(fresh_seed):
    for place, grows in (("pre", True), ("post", False), ("deepnorm", False)):
        variant = NormVariant(replace(DEEP, n_layers=3, residual=place))
        readings = norms.depth_readings(variant, fresh_seed)
        by_depth = readings["variance by depth"]
        assert len(by_depth) == 4 and by_depth[0] == 1.0
        assert by_depth[-1] == readings["variance, last / first"]
        assert (by_depth[-1] > 1.5) == grows
        assert readings["gradient, first / last"] > 0 and 3 < readings["first loss"] < 7


def test_a_short_training_learns(fresh_seed):
    variant = NormVariant(replace(DEEP, n_layers=2, d_model=16, n_heads=1, n_kv_heads=1))
    recipe = norms.harness.small_recipe(40)
    early, late = (norms.trained_loss(variant, fresh_seed, 16, 8, steps, recipe) for steps in (1, 40))
    assert late < early - 0.3


def test_the_stored_table_is_whole():
    table = load_table("norms")
    assert [row["name"] for row in table["rows"]] == [*KINDS, *DEEP_PLACES]
    assert len(table["seeds"]) >= 3 and "bench norms" in table["command"]
    rows = {row["name"]: row["values"] for row in table["rows"]}
    assert all(len(values) == len(table["seeds"]) for row in rows.values() for values in row.values())
    layer, rms = (rows[name]["loss"] for name in ("pre, LayerNorm", "pre, RMSNorm"))
    assert sum(rms) / len(rms) == pytest.approx(sum(layer) / len(layer), abs=0.05)
    for name in DEEP_PLACES:
        assert all(len(curve) == 49 for curve in rows[name]["variance by depth"])
