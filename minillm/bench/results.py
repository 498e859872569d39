r"""Tables as data: each JSON file in `results/` says what made it, where and with which seeds."""

import datetime
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

import psutil
import torch

from minillm.bench.variants.harness import Row

FOLDER = Path(__file__).parent / "results"


def describe_machine() -> str:
    r"""The processor in a few words: cores and instruction sets, nothing that tells whose machine it is."""
    units = getattr(torch.cpu, "get_capabilities", dict)()
    extras = [label for key, label in (("avx512_bf16", "bf16 instructions"), ("amx_bf16", "AMX")) if units.get(key)]
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count()
    return ", ".join([f"{cores} cores", torch.backends.cpu.get_cpu_capability(), *extras])


def make_table(rows: Sequence[Row], seeds: Sequence[int], command: str) -> dict[str, Any]:
    r"""Put the rows of a run together with what a reader needs in order to repeat it.

    Args:
        rows: what was measured.
        seeds: of the runs, in the order of the rows' values.
        command: the command line that measures it again.
    Returns: plain JSON data: command, date, torch, machine, seeds, rows.
    """
    return {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__.partition("+")[0],
        "machine": describe_machine(),
        "seeds": list(seeds),
        "rows": [asdict(row) for row in rows],
    }


def save_table(name: str, table: dict[str, Any], path: str | Path | None = None) -> Path:
    r"""Write a table, in a form that shows changes line by line.

    Args:
        name: of the table, e.g. `positions`.
        table: from `make_table`.
        path: where to; None = the stored table of that name.
    Returns: the path.
    """
    path = FOLDER / f"{name}.json" if path is None else Path(path)
    rows = ",\n  ".join(_row_text(row) for row in table["rows"])
    head = "".join(f' {json.dumps(key)}: {json.dumps(value)},\n' for key, value in table.items() if key != "rows")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{\n{head} "rows": [\n  {rows}\n ]\n}}\n', encoding="utf-8")
    return path


def load_table(name: str, path: str | Path | None = None) -> dict[str, Any]:
    r"""Read a stored table.

    Args:
        name: of the table, e.g. `positions`.
        path: where from; None = the stored table of that name.
    Returns: command, date, torch, machine, seeds, rows; a row is {"name": ..., "values": {measure: [one a seed]}}.
    Raises:
        ValueError: if there is no such table.
    """
    path = FOLDER / f"{name}.json" if path is None else Path(path)
    if not path.exists():
        stored = sorted(file.stem for file in FOLDER.glob("*.json"))
        raise ValueError(f"name={name!r}: no such table; stored are {stored}, and `python -m minillm bench` makes more")
    return json.loads(path.read_text(encoding="utf-8"))


def table_text(table: dict[str, Any]) -> str:
    r"""A table for the terminal: a line a row, the mean over the seeds and, in brackets, their range; no lists.

    Args:
        table: from `make_table` or `load_table`.
    Returns: the text.
    """
    lines = []
    for row in table["rows"]:
        cells = [
            f"{measure} {mean(values):.3f} ({min(values):.3f}..{max(values):.3f})"
            for measure, values in row["values"].items() if all(isinstance(value, int | float) for value in values)
        ]
        lines.append(f"{row['name']:<32} " + "  ".join(cells))
    return "\n".join(lines)


def _row_text(row: dict[str, Any]) -> str:
    lines = [f"   {json.dumps(measure)}: {json.dumps(_rounded(values))}" for measure, values in row["values"].items()]
    return f'{{"name": {json.dumps(row["name"])}, "values": {{\n' + ",\n".join(lines) + "\n  }}"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 5)
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
