r"""`python -m minillm train`: train a model from nothing, or go on with a run."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from minillm.cli import options, runs

DEFAULTS = {"corpus": "stories", "preset": "tiny", "tokenizer": "bpe", "vocab_size": 1024, "seq_len": 128,
            "batch_size": 32, "learning_rate": 3e-3, "warmup_steps": 50, "schedule": "linear", "accumulation": 1,
            "dtype": "auto", "compile": False, "recompute": False, "threads": None}
OfText = "For a text: "


def train_command(
    corpus: Annotated[str | None, typer.Option(help="stories, python-docs, or a file or folder. [stories]")] = None,
    seconds: Annotated[float | None, typer.Option(help="Stop after so many seconds. [60, if no --steps]")] = None,
    steps: Annotated[int | None, typer.Option(help="Stop after so many steps.")] = None,
    seed: options.Seed = None,
    device: options.Device = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Of the CPU. [all or one: a short trial decides]")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16: what to compute in. [auto]")] = None,
    compile: Annotated[bool | None, typer.Option("--compile/--no-compile", help="Use torch.compile. [no]")] = None,
    recompute: Annotated[bool | None, typer.Option("--recompute/--keep", help="Compute activations twice, to keep "
                                                   "fewer. [keep]")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the checkpoint. [a new one in runs/]")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run; --seconds and --steps are totals.")] = None,
    preset: Annotated[str | None, typer.Option(help="Shape of the model, see minillm.config. [tiny]")] = None,
    tokenizer: Annotated[str | None, typer.Option(help=OfText + "bpe, bytes or characters. [bpe]")] = None,
    vocab_size: Annotated[int | None, typer.Option(min=256, help=OfText + "tokens of bpe. [1024]")] = None,
    seq_len: Annotated[int | None, typer.Option(min=2, help=OfText + "tokens in a window. [128]")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Texts in a batch. [32]")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The largest learning rate. [0.003]")] = None,
    warmup_steps: Annotated[int | None, typer.Option(help="Steps until it is reached. [50]")] = None,
    schedule: Annotated[str | None, typer.Option(help="How it comes down: linear or cosine. [linear]")] = None,
    accumulation: Annotated[int | None, typer.Option(min=1, help="Batches that make one step. [1]")] = None,
    parallel: Annotated[str | None, typer.Option(help="ddp or fsdp: in all processes that torchrun started.")] = None,
    save_every: Annotated[float, typer.Option(min=0.0, help="Seconds between checkpoints on the way.")] = 60.0,
    as_json: options.AsJson = False,
) -> None:
    r"""Train a model.

    Without options: a small GPT learns to tell stories, in a minute. Its checkpoint is written to a new folder in
    runs/; no run ever writes over another. Then try: python -m minillm chat

    On several devices or machines, each process has its rows of every batch, and the losses stay the same:
    torchrun --nproc-per-node 2 -m minillm train --parallel ddp (fsdp: the weights are spread over the processes too)
    """
    import torch._dynamo  # noqa: F401  torch would import it when the optimizer is made, at the cost of our seconds

    from minillm.cli import training_run
    from minillm.training.distributed.launch import joined

    given = {name: value for name, value in locals().items() if name in DEFAULTS and value is not None}
    limits = {"steps": steps, "seconds": seconds}
    device = options.resolve_device(device)
    words = sys.argv[1:] if sys.argv[1:2] == ["train"] else ["train", "--parallel", str(parallel)]
    with joined(parallel, device, words) as (ranks, device):
        if resume is None:
            # Chance, and the names of folders that exist already: all processes must have the same.
            folder = runs.new_run_dir(out, given.get("corpus", DEFAULTS["corpus"])) if ranks.rank == 0 else None
            folder, seed = ranks.first((folder, options.resolve_seed(seed)))
            limits["seconds"] = 60.0 if steps is None and seconds is None else seconds
            start = time.perf_counter()
            run = training_run.new_run({**DEFAULTS, **given, "seed": seed}, folder, device, ranks)
        else:
            refuse_changes(resume, given if seed is None else {**given, "seed": seed})
            start = time.perf_counter()
            run, old_limits = training_run.resumed_run(resume, out, device, ranks)
            limits = old_limits if steps is None and seconds is None else limits
        report = training_run.train_and_judge(run, start, limits, save_every)
        if ranks.rank == 0:
            print(json.dumps(report) if as_json else report_text(report))


def refuse_changes(resume: Path, given: Mapping[str, Any]) -> None:
    r"""A run goes on as it began; say so to a user who asks for something else.

    Args:
        resume: its folder.
        given: options that the user gave and that would change it.
    Raises:
        ValueError: if there are any.
    """
    if given:
        names = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ValueError(f"--resume {resume}: the run goes on as it began; leave out {names}")


def report_text(report: Mapping[str, Any]) -> str:
    r"""A report as lines to read.

    Args:
        report: from `train_and_judge`.
    Returns: the text.
    """
    lines = ["{params:,} parameters, {tokens:,} tokens in {seconds:.1f} s ({tokens_per_s:,.0f} a second), seed {seed}"]
    if report["parallel"]:
        lines.append("{world_size} processes together, by {parallel}")
    if "valid_fraction" in report:
        lines.append("{nats_per_story:.2f} nats a story; the language itself has {floor_nats_per_story:.2f} "
                     "({over_floor:+.2%})")
        lines.append("{valid_fraction:.1%} of {n_samples} stories that it told are right in every word")
    else:
        lines.append("on text kept for validation: {nats_per_token:.3f} nats a token (perplexity {perplexity:.1f}), "
                     "{bits_per_byte:.3f} bits a byte")
    lines.append("saved in {out}; now try: python -m minillm chat --checkpoint {out}")
    return "\n".join(lines).format(**report)
