r"""`python -m minillm bench`: measure variants of the model against each other."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from minillm.cli import options

OfTrain = "For train: "


def bench_command(
    table: Annotated[str, typer.Argument(help="train (speed), or positions, norms, ...: a file of bench/variants.")],
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each variant, with seeds 0, 1, ...")] = 3,
    out: Annotated[str | None, typer.Option(help="Write what was measured to this JSON file.")] = None,
    store: Annotated[bool, typer.Option("--store", help="Write it to the tables that lessons show.")] = False,
    sizes: Annotated[str, typer.Option(help=OfTrain + "small, larger, or both with a comma.")] = "small,larger",
    rounds: Annotated[int, typer.Option(min=1, help=OfTrain + "turns of each contestant.")] = 9,
    steps: Annotated[int, typer.Option(min=1, help=OfTrain + "training steps of a turn.")] = 3,
    compile: Annotated[bool, typer.Option(help=OfTrain + "time torch.compile too; it takes minutes.")] = True,
    threads: Annotated[int | None, typer.Option(min=1, help=OfTrain + "of the CPU. [all]")] = None,
    as_json: options.AsJson = False,
) -> None:
    r"""Train variants of one small model alike and print how they compare; or measure how fast we train.

    A table takes minutes: each variant is trained anew with each seed, on one thread. `bench train` takes minutes too:
    it times our training step against nanoGPT's, in turns, with the losses at equal tokens beside.
    """
    if table == "train":
        report = training_speed(sizes, rounds, steps, compile, threads, as_json)
        if out is not None:
            Path(out).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        return
    import importlib
    import pkgutil

    import torch

    from minillm.bench import results, variants

    known = sorted(module.name for module in pkgutil.iter_modules(variants.__path__) if module.name != "harness")
    if table not in known:
        raise ValueError(f"TABLE {table}: use one of {['train', *known]}")
    torch.set_num_threads(1)  # so small a model gains nothing from a second one
    make_rows = getattr(importlib.import_module(f"minillm.bench.variants.{table}"), f"{table}_table")
    numbers = list(range(seeds))
    command = f"python -m minillm bench {table} --seeds {seeds} --store"
    made = results.make_table(make_rows(numbers), numbers, command)
    print(json.dumps(made) if as_json else results.table_text(made))
    if out is not None or store:
        path = results.save_table(table, made, out)
        if not as_json:
            print(path)


def training_speed(
    sizes: str, rounds: int, steps: int, compile: bool, threads: int | None, as_json: bool
) -> dict[str, Any]:
    r"""`bench train`: measure and print.

    Args:
        sizes: names from `bench.training.settings`, with commas between.
        rounds: turns of each contestant.
        steps: training steps of a turn.
        compile: whether to time the compiled ones too.
        threads: of the CPU; None = all.
        as_json: print one JSON object in place of lines.
    Returns: what was measured.
    """
    import torch

    from minillm.bench.training import race

    if threads is not None:
        torch.set_num_threads(threads)
    report = race.measure([name.strip() for name in sizes.split(",")], rounds, steps, compile=compile)
    print(json.dumps(report) if as_json else race.race_text(report))
    return report
