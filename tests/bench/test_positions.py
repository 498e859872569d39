r"""The table of positions: its rows are what they say, and a growing text is measured as it grows."""

from dataclasses import replace

import pytest
import torch

from minillm.bench import results
from minillm.bench.variants import harness, positions
from minillm.config import DynamicNtk, Init, Mlp, Rope
from minillm.config.positions import POSITIONS
from minillm.model.gpt import GPT

SMALL = dict(d_model=16, n_layers=1, n_heads=2, n_kv_heads=2, head_dim=8, ffn=Mlp(16), init=Init(0.5, 0.5, "plain"))


def test_every_position_of_the_package_has_a_row():
    assert {type(position) for position in positions.METHODS.values()} == set(POSITIONS.values())


def test_rows_of_rope_share_their_training():
    rows = positions.position_variants()
    rope = [row for name, row in rows.items() if name.startswith("RoPE")]
    assert len({row.trained for row in rope}) == 1 and len(rope) == 11
    assert len({(row.tested, row.tuning_steps) for row in rows.values()}) == len(rows)
    assert all(row.tested.max_seq_len >= positions.TEST_LEN for row in rows.values())


def test_buckets_and_curve_are_means():
    got = positions.bucket_losses([float(t) for t in range(512)])
    assert (got["32-64"], got["64-128"], got["256-512"]) == (47.5, 95.5, 383.5) and got["rise"] == 336.0
    assert len(got["curve"]) == 32 and got["curve"][1] == pytest.approx(23.5)


def test_a_growing_text_meets_the_angles_of_its_length(fresh_seed):
    config = replace(harness.BASE, **SMALL)
    windows = harness.text_windows("validation", 24, 3)

    def fresh(**changes):
        return GPT(replace(config, **changes), torch.Generator().manual_seed(fresh_seed)).eval()

    def assert_same(ours, theirs):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)  # float32 sums in batches of another shape

    plain = fresh()
    assert_same(positions.growing_loss(plain, windows, 8), harness.loss_by_position(plain, windows))
    dynamic = fresh(position=Rope(scaling=DynamicNtk(2.0, 8)))
    got = positions.growing_loss(dynamic, windows, 8)
    assert_same(got[:8], harness.loss_by_position(plain, windows)[:8])
    assert_same(got[16:], harness.loss_by_position(dynamic, windows)[16:])
    assert not torch.allclose(got[8:16], harness.loss_by_position(dynamic, windows)[8:16])


def test_a_row_is_measured_from_training_to_numbers(monkeypatch, fresh_seed):
    monkeypatch.setattr(positions, "_trained", lambda config, seed: harness.train_variant(
        replace(config, **SMALL), seed, train_len=16, batch_size=4, steps=2))
    full = harness.text_windows
    monkeypatch.setattr(harness, "text_windows", lambda part, seq_len: full(part, seq_len, 2))
    row = replace(positions.position_variants()["RoPE + YaRN, tuned"], tuning_steps=1)
    got = positions.measure_position(row, fresh_seed)
    assert got["rise"] == pytest.approx(got["256-512"] - got["32-64"])
    assert 0 < got["32-64"] < 20 and got["n_params"] > 1000


def test_the_stored_table_has_these_rows_and_its_main_result():
    table = results.load_table("positions")
    rows = {row["name"]: row["values"] for row in table["rows"]}
    assert list(rows) == list(positions.position_variants())
    for values in rows.values():
        for bucket, (start, end) in positions.BUCKETS.items():
            points = [curve[start // 16 : end // 16] for curve in values["curve"]]
            assert [sum(part) / len(part) for part in points] == pytest.approx(values[bucket], abs=1e-4)
    assert max(rows["ALiBi"]["rise"]) < 0.1 < 1 < min(rows["RoPE"]["rise"])
