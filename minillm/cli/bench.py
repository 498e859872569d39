r"""`python -m minillm bench`: how fast we train and write beside the peers, and tables of variants of one model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from minillm.cli import options

Out = Annotated[str | None, typer.Option(help="Write what was measured to this JSON file.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Of the CPU; all, if not given.")]


def bench_app() -> typer.Typer:
    r"""`train`, `decode`, and a command for each table, that is for each file of `bench/variants`."""
    app = typer.Typer(no_args_is_help=True, help="Measure how fast we train and write, or variants of the model.")
    app.command("train")(train_speed)
    app.command("decode")(decode_speed)
    for name in table_names():
        app.command(name, help=f"Compare variants: {name}.")(
            table_command(name))
    return app


def table_names() -> list[str]:
    r"""The tables, in alphabetical order; nothing is imported for it."""
    import minillm

    folder = Path(minillm.__file__).parent / "bench" / "variants"
    return sorted(path.stem for path in folder.glob("*.py") if path.stem not in ("__init__", "harness"))


def table_command(name: str) -> Callable[..., None]:
    r"""The command that makes a table.

    Args:
        name: of the table.
    Returns: a function with the command's options; each variant is trained anew with each seed, on one thread.
    """
    def make(
        seeds: Annotated[int, typer.Option(min=1, help="Runs of each variant, with seeds 0, 1, ...")] = 3,
        out: Out = None,
        store: Annotated[bool, typer.Option("--store", help="Write it to the tables that lessons show.")] = False,
        as_json: options.AsJson = False,
    ) -> None:
        import importlib

        import torch

        from minillm.bench import results

        torch.set_num_threads(1)  # so small a model gains nothing from a second one
        make_rows = getattr(importlib.import_module(f"minillm.bench.variants.{name}"), f"{name}_table")
        numbers = list(range(seeds))
        command = f"python -m minillm bench {name} --seeds {seeds} --store"
        made = results.make_table(make_rows(numbers), numbers, command)
        print(json.dumps(made) if as_json else results.table_text(made))
        if out is not None or store:
            path = results.save_table(name, made, out)
            if not as_json:
                print(path)

    return make


def train_speed(
    sizes: Annotated[str, typer.Option(help="small, larger, or both with a comma.")] = "small,larger",
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each contestant.")] = 9,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of a turn.")] = 3,
    compile: Annotated[bool, typer.Option(help="Time torch.compile too; it takes minutes.")] = True,
    threads: Threads = None,
    out: Out = None,
    as_json: options.AsJson = False,
) -> None:
    r"""Time our training step against nanoGPT's arithmetic, in turns, with the losses at equal tokens beside."""
    from minillm.bench.training import race

    _use_threads(threads)
    report = race.measure(_split(sizes), rounds, steps, compile=compile)
    _tell(report, race.race_text, out, as_json)


def decode_speed(
    model: Annotated[str, typer.Option(help="smollm2, or the path of a GGUF file or a folder.")] = "smollm2",
    weights: Annotated[str, typer.Option(help="Of ours: fp32, bf16, int8, int4.")] = "fp32,bf16,int8,int4",
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each entrant.")] = 5,
    new_tokens: Annotated[int, typer.Option(min=2, help="Written after each prompt.")] = 128,
    quality_tokens: Annotated[int, typer.Option(min=2, help="Of real text, for the KL to float32.")] = 384,
    threads: Threads = None,
    out: Out = None,
    as_json: options.AsJson = False,
) -> None:
    r"""Time how fast a real model writes: ours, transformers and, where it is installed, llama.cpp, in turns.

    Same file, same prompts, same threads; the KL to float32 on real text says whose speed counts. It takes minutes.
    """
    from minillm.bench.decode import race

    _use_threads(threads)
    report = race.measure_decode(model, _split(weights), rounds, new_tokens, quality_tokens)
    _tell(report, race.decode_text, out, as_json)


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",")]


def _use_threads(threads: int | None) -> None:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


def _tell(report: dict[str, Any], to_text: Callable[[dict[str, Any]], str], out: str | None, as_json: bool) -> None:
    print(json.dumps(report) if as_json else to_text(report))
    if out is not None:
        Path(out).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
