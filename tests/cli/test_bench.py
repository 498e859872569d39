r"""`minillm bench`: finds a table by its file, prints it and writes it."""

import importlib
import json
import pkgutil

import pytest
from typer.testing import CliRunner

from minillm.bench import variants
from minillm.bench.variants import positions
from minillm.bench.variants.harness import Row
from minillm.cli.app import build_app


def test_bench_prints_and_writes(monkeypatch, tmp_path):
    monkeypatch.setattr(
        positions, "positions_table", lambda seeds: [Row("RoPE", {"rise": [seed + 0.25 for seed in seeds]})])
    run = CliRunner().invoke(build_app(), ["bench", "positions", "--seeds", "4", "--out", str(tmp_path / "p.json")])
    assert run.exit_code == 0 and "RoPE" in run.output and "1.750 (0.250..3.250)" in run.output
    table = json.loads((tmp_path / "p.json").read_text())
    assert table["seeds"] == [0, 1, 2, 3] and table["rows"][0]["values"]["rise"] == [0.25, 1.25, 2.25, 3.25]


def test_an_unknown_table_is_refused():
    run = CliRunner().invoke(build_app(), ["bench", "harness"])
    assert run.exit_code == 2 and "harness" in run.output
    known = CliRunner().invoke(build_app(), ["bench", "--help"])
    assert known.exit_code == 0 and all(name in known.output for name in ("train", "decode", "positions"))


@pytest.mark.parametrize("name", [m.name for m in pkgutil.iter_modules(variants.__path__) if m.name != "harness"])
def test_every_file_of_variants_has_its_table(name):
    assert callable(getattr(importlib.import_module(f"minillm.bench.variants.{name}"), f"{name}_table"))
