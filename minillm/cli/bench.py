r"""`python -m minillm bench`: measure variants of the model against each other."""

from typing import Annotated

import typer


def bench_command(
    table: Annotated[str, typer.Argument(help="positions, attention, norms, ffn, ...: a file of bench/variants.")],
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each variant, with seeds 0, 1, ...")] = 3,
    out: Annotated[str | None, typer.Option(help="Write the table to this JSON file.")] = None,
    store: Annotated[bool, typer.Option("--store", help="Write it to the tables that lessons show.")] = False,
) -> None:
    r"""Train variants of one small model alike and print how they compare.

    A table takes minutes: each variant is trained anew with each seed, on one thread.
    """
    import importlib
    import pkgutil

    import torch

    from minillm.bench import results, variants

    known = sorted(module.name for module in pkgutil.iter_modules(variants.__path__) if module.name != "harness")
    if table not in known:
        raise ValueError(f"TABLE {table}: use one of {known}")
    torch.set_num_threads(1)  # so small a model gains nothing from a second one
    make_rows = getattr(importlib.import_module(f"minillm.bench.variants.{table}"), f"{table}_table")
    numbers = list(range(seeds))
    command = f"python -m minillm bench {table} --seeds {seeds} --store"
    made = results.make_table(make_rows(numbers), numbers, command)
    print(results.table_text(made))
    if out is not None or store:
        print(results.save_table(table, made, out))
