r"""`python -m minillm train`: train a model from nothing, go on with a run, or train a small part of a model."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minillm.cli import options, runs
from minillm.cli import training_options as of

DEFAULTS = {"corpus": "stories", "preset": "tiny", "tokenizer": "bpe", "vocab_size": 1024, "seq_len": 128,
            "batch_size": 32, "learning_rate": 3e-3, "warmup_steps": 50, "schedule": "linear", "accumulation": 1,
            "dtype": "auto", "compile": False, "recompute": False, "kernel": None, "threads": None}
NOT_WITH_LORA = ("resume", "preset", "tokenizer", "vocab_size", "compile", "kernel", "parallel", "save_every")
LORA_ALONE = ("model", "checkpoint", "rank", "alpha", "targets")


def train_command(
    corpus: of.Corpus = None,
    seconds: of.Seconds = None,
    steps: of.Steps = None,
    seed: options.Seed = None,
    device: options.Device = "auto",
    threads: of.Threads = None,
    dtype: of.Dtype = None,
    compile: of.Compile = None,
    recompute: of.Recompute = None,
    kernel: of.Kernel = None,
    out: of.Out = None,
    resume: of.Resume = None,
    preset: of.Preset = None,
    tokenizer: of.TokenizerName = None,
    vocab_size: of.VocabSize = None,
    seq_len: of.SeqLen = None,
    batch_size: of.BatchSize = None,
    learning_rate: of.LearningRate = None,
    warmup_steps: of.WarmupSteps = None,
    schedule: of.Schedule = None,
    accumulation: of.Accumulation = None,
    parallel: of.Parallel = None,
    save_every: of.SaveEvery = None,
    lora: of.Lora = False,
    qlora: of.Qlora = False,
    model: options.Model = None,
    checkpoint: options.Checkpoint = None,
    rank: of.Rank = None,
    alpha: of.Alpha = None,
    targets: of.Targets = None,
    as_json: options.AsJson = False,
) -> None:
    r"""Train a model, or a small part beside one.

    Without options: a small GPT learns to tell stories, in a minute. Its checkpoint is written to a new folder in
    runs/; no run ever writes over another. Then try: python -m minillm chat

    On several devices or machines, each process has its rows of every batch, and the losses stay the same:
    torchrun --nproc-per-node 2 -m minillm train --parallel ddp (fsdp: the weights are spread over the processes too)

    With --lora a model stays as it is, and a small file learns beside it, from a text or from talks, one a line:
    python -m minillm train --lora --model smollm2 --corpus talks.jsonl
    """
    given = {name: value for name, value in locals().items() if value is not None}
    import torch._dynamo  # noqa: F401  torch would import it when the optimizer is made, at the cost of our seconds

    given["device"] = options.resolve_device(device)
    refuse_others(given, NOT_WITH_LORA if lora or qlora else LORA_ALONE, lora or qlora)
    report, text = train_beside(given) if lora or qlora else train_whole(given)
    if report is not None:
        print(json.dumps(report) if as_json else text)


def train_whole(given: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str]:
    r"""Train a whole model, or go on with a run.

    Args:
        given: options by name; those that the user did not give are left out.
    Returns: the report, and as lines to read; None and nothing in all processes but the first.
    Raises:
        ValueError: if an option is out of range, or a file cannot be used.
    """
    from minillm.cli import training_run
    from minillm.training.distributed.launch import joined

    settings = {name: given[name] for name in DEFAULTS if name in given}
    resume, seed, out, parallel = (given.get(name) for name in ("resume", "seed", "out", "parallel"))
    limits = limits_of(given)
    words = sys.argv[1:] if sys.argv[1:2] == ["train"] else ["train", "--parallel", str(parallel)]
    with joined(parallel, given["device"], words) as (ranks, device):
        if resume is None:
            # Chance, and the names of folders that exist already: all processes must have the same.
            folder = runs.new_run_dir(out, settings.get("corpus", DEFAULTS["corpus"])) if ranks.rank == 0 else None
            folder, seed = ranks.first((folder, options.resolve_seed(seed)))
            run = training_run.new_run({**DEFAULTS, **settings, "seed": seed}, folder, device, ranks)
        else:
            refuse_changes(resume, settings if seed is None else {**settings, "seed": seed})
            run, old_limits = training_run.resumed_run(resume, out, device, ranks)
            limits = limits if {"steps", "seconds"} & given.keys() else old_limits
        report = training_run.train_and_judge(run, limits, given.get("save_every", 60.0))
        return report, report_text(report) if report else ""


def train_beside(given: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    r"""Train a small part of a model.

    Args:
        given: options by name; those that the user did not give are left out.
    Returns: the report, and as lines to read.
    Raises:
        ValueError: if an option is out of range, or a file cannot be used.
    """
    from minillm.cli import tuning_run

    settings = {name: given[name] for name in tuning_run.DEFAULTS if name in given}
    report = tuning_run.tune(settings, given["qlora"], limits_of(given), given.get("out"),
                             options.resolve_seed(given.get("seed")), given["device"])
    return report, tuning_run.tuning_text(report)


def limits_of(given: Mapping[str, Any]) -> dict[str, Any]:
    r"""When to stop: what the user said, or after a minute.

    Args:
        given: options by name.
    Returns: `steps` and `seconds`, each a number or None.
    """
    limits = {"steps": given.get("steps"), "seconds": given.get("seconds")}
    return limits if any(value is not None for value in limits.values()) else {**limits, "seconds": 60.0}


def refuse_others(given: Mapping[str, Any], others: Sequence[str], with_lora: bool) -> None:
    r"""Say so to a user who mixes options of whole models and of small parts.

    Args:
        given: options by name.
        others: those that do not belong here.
        with_lora: whether a small part is trained.
    Raises:
        ValueError: if there are any.
    """
    if names := ", ".join("--" + name.replace("_", "-") for name in others if name in given):
        advice = "leave it out, or train a whole model without --lora" if with_lora else "add --lora, or leave it out"
        raise ValueError(f"{names}: is not for {'--lora' if with_lora else 'training a whole model'}; {advice}")


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
    if "kernel_share" in report:
        lines.append("our kernel computed {kernel_share:.1%} of the blocks' forward passes, PyTorch the others")
    if "valid_fraction" in report:
        lines.append("{nats_per_story:.2f} nats a story; the language itself has {floor_nats_per_story:.2f} "
                     "({over_floor:+.2%})")
        lines.append("{valid_fraction:.1%} of {n_samples} stories that it told are right in every word")
    else:
        lines.append("on text kept for validation: {nats_per_token:.3f} nats a token (perplexity {perplexity:.1f}), "
                     "{bits_per_byte:.3f} bits a byte")
    lines.append("saved in {out}; now try: python -m minillm chat --checkpoint {out}")
    return "\n".join(lines).format(**report)
