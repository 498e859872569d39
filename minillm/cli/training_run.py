r"""One run of `train`: what it needs, how it goes, and what is reported at its end."""

import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from minillm.cli.corpora import Corpus, open_corpus
from minillm.config import preset
from minillm.model.gpt import GPT
from minillm.training import checkpoint
from minillm.training.callbacks import EverySeconds, History, ProgressBar
from minillm.training.distributed.ranks import Ranks
from minillm.training.freed_memory import keep_freed_memory
from minillm.training.loop import train
from minillm.training.own_kernel import kernel_obstacle
from minillm.training.recipe import Recipe
from minillm.training.state import TrainingState
from minillm.training.threads import use_fastest_threads


@dataclass(frozen=True)
class Run:
    r"""All that a run consists of.

    Args:
        state: the model, its recipe and its counters.
        corpus: what it learns.
        generator: the source of its batches.
        settings: the options that it began with.
        folder: for its checkpoints.
        began: the reading of `time.perf_counter()` from which on its seconds count.
    """

    state: TrainingState
    corpus: Corpus
    generator: torch.Generator
    settings: Mapping[str, Any]
    folder: Path
    began: float

    def save(self, limits: Mapping[str, Any]) -> None:
        r"""Write a checkpoint to the folder."""
        about = {"settings": dict(self.settings), "limits": dict(limits), "corpus_sha256": self.corpus.digest}
        checkpoint.save(self.folder, self.state, self.corpus.tokenizer, generator=self.generator, about=about)


def new_run(settings: Mapping[str, Any], folder: Path, device: str, ranks: Ranks) -> Run:
    r"""A run that begins: fresh weights, from the seed in the settings.

    Args:
        settings: every option of `train` that decides the outcome.
        folder: for the checkpoint; made.
        device: `cpu`, `cuda` or `mps`.
        ranks: the processes that train together.
    Returns: the run.
    Raises:
        ValueError: if an option is out of range, or the folder cannot be written.
    """
    began = time.perf_counter()
    recipe = Recipe(**{name: settings[name] for name in
                       ("learning_rate", "warmup_steps", "schedule", "accumulation", "dtype", "compile", "recompute")},
                    kernel=settings["kernel"] is True)
    require_shares(settings["batch_size"], ranks)
    settings = ranks.first({**settings, "threads": settings["threads"] or use_fastest_threads()})
    torch.set_num_threads(settings["threads"])
    # For dropout, which differs from process to process; everything else draws from the generator.
    torch.manual_seed(settings["seed"] + ranks.rank)
    generator = torch.Generator().manual_seed(settings["seed"])
    corpus = open_corpus(settings["corpus"], settings["tokenizer"], settings["vocab_size"], settings["seq_len"])
    if ranks.first(corpus.digest) != corpus.digest:
        raise ValueError(f"--corpus {settings['corpus']}: process {ranks.rank} finds another text than process 0; give "
                         "all machines the same")
    config = preset(settings["preset"], vocab_size=corpus.tokenizer.vocab_size, max_seq_len=corpus.max_seq_len)
    model = GPT(config, generator).to(device)
    make_writable(folder)
    state = TrainingState(model, recipe, ranks)
    waiting = time.perf_counter()
    kernel = with_kernel(state, settings["kernel"])
    began += time.perf_counter() - waiting  # to build it, once on a machine, is no part of the training
    state.recipe = replace(recipe, kernel=kernel)
    return Run(state, corpus, generator, {**settings, "kernel": kernel}, folder, began)


def with_kernel(state: TrainingState, wanted: bool | None) -> bool:
    r"""Whether a new run shall use our own kernel, which is built if it has not been.

    Args:
        state: the run.
        wanted: what the user said; None = if it can be used, and nothing else was asked for that excludes it.
    Returns: yes or no.
    Raises:
        ValueError: if it is wanted and cannot be used.
    """
    if wanted is False or state.recipe.compile or state.recipe.recompute:
        return False
    obstacle = kernel_obstacle(state.model, state.dtype, state.ranks)
    if wanted and obstacle is not None:
        raise ValueError(f"--kernel: {obstacle}; leave it out, and PyTorch computes all")
    return obstacle is None


def resumed_run(folder: Path, out: Path | None, device: str, ranks: Ranks) -> tuple[Run, dict[str, Any]]:
    r"""A run that goes on.

    Args:
        folder: of its checkpoint.
        out: for the new checkpoints; None = the same folder.
        device: `cpu`, `cuda` or `mps`.
        ranks: the processes that go on with it; there may have been more, or fewer, before.
    Returns: the run, and the limits that it had.
    Raises:
        ValueError: if the checkpoint cannot be used, or the corpus is no longer what it was.
    """
    began = time.perf_counter()
    generator = torch.Generator()
    state, tokenizer, about = checkpoint.resume(folder, device, generator=generator, ranks=ranks)
    if not {"settings", "limits", "corpus_sha256"} <= about.keys():
        raise ValueError(f"--resume {folder}: was not written by this command; go on with it from Python")
    settings = about["settings"]
    require_shares(settings["batch_size"], ranks)
    torch.set_num_threads(settings["threads"])  # another number may add in another order
    corpus = open_corpus(settings["corpus"], tokenizer, settings["vocab_size"], settings["seq_len"])
    if corpus.digest != about["corpus_sha256"]:
        raise ValueError(f"--resume {folder}: the text of --corpus {settings['corpus']} is no longer the one that the "
                         "run began with; start a new run")
    make_writable(out or folder)
    waiting = time.perf_counter()
    obstacle = kernel_obstacle(state.model, state.dtype, ranks) if state.recipe.kernel else None
    began += time.perf_counter() - waiting
    if obstacle is not None:
        state.recipe = replace(state.recipe, kernel=False)
        if ranks.rank == 0:
            print(f"--resume {folder}: goes on in PyTorch alone, without our kernel: {obstacle}", file=sys.stderr)
    return Run(state, corpus, generator, settings, out or folder, began), about["limits"]


def train_and_judge(run: Run, limits: Mapping[str, Any], save_every: float) -> dict[str, Any] | None:
    r"""Train until a limit is reached, keep the result, and judge it.

    Args:
        run: new or resumed; changed in place.
        limits: `steps` and `seconds`, each a number or None.
        save_every: seconds between checkpoints on the way; 0 = only one at the end.
    Returns: the report, plain JSON data; its `seconds` are those of the training, its `losses` those of the steps that
        were reported since it began or was resumed (on a CPU all of them). None in all processes but the first.
    Raises:
        ValueError: as `train`.
    """
    state, corpus, ranks = run.state, run.corpus, run.state.ranks
    history = History()
    callbacks = [history, ProgressBar(corpus.floor())] if ranks.rank == 0 else []
    if save_every > 0:
        callbacks.append(EverySeconds(save_every, lambda: run.save(limits)))
    report_every = 10 if state.device.type != "cpu" else 1  # reading the loss makes a GPU wait
    keep_freed_memory()
    state.seconds += time.perf_counter() - run.began
    train(state.model, corpus.batches(run.settings["batch_size"], run.generator), steps=limits["steps"],
          seconds=limits["seconds"], callbacks=callbacks, report_every=report_every, state=state)
    run.save(limits)
    if ranks.rank > 0:
        return None
    model = state.model if ranks.parallel is None else checkpoint.load(run.folder, state.device)[0]  # of all pieces
    judge = torch.Generator(state.device).manual_seed(run.settings["seed"])
    return {
        "corpus": corpus.name, "params": sum(parameter.numel() for parameter in model.parameters()),
        "steps": state.step, "tokens": state.tokens, "seconds": round(state.seconds, 3),
        "tokens_per_s": round(state.tokens / state.seconds, 1), **corpus.judge(model, judge),
        "seed": run.settings["seed"], "dtype": state.dtype, **kernel_report(state.passes), "device": str(state.device),
        "threads": torch.get_num_threads(), "parallel": ranks.parallel, "world_size": ranks.world_size,
        "losses": [round(info["loss"], 6) for info in history.steps], "out": str(run.folder),
    }


def kernel_report(passes: Counter[str]) -> dict[str, Any]:
    r"""What our kernel did in a run.

    Args:
        passes: of `TrainingState`.
    Returns: `kernel`, whether it computed anything; and `kernel_share`, of the blocks' forward passes, if not all.
    """
    share = passes["kernel"] / max(passes.total(), 1)
    return {"kernel": share > 0} | ({"kernel_share": round(share, 4)} if passes["PyTorch"] else {})


def require_shares(batch_size: int, ranks: Ranks) -> None:
    r"""Refuse a batch that the processes cannot share evenly.

    Args:
        batch_size: rows of a batch of all processes.
        ranks: the processes.
    Raises:
        ValueError: if they cannot.
    """
    n = ranks.world_size
    if batch_size % n:
        raise ValueError(f"--batch-size {batch_size}: {n} processes cannot share it evenly; use a multiple of {n}, "
                         f"such as {(batch_size // n + 1) * n}")


def make_writable(folder: Path) -> None:
    r"""Make a folder now, rather than find out after the training that it cannot be made.

    Args:
        folder: may exist.
    Raises:
        ValueError: if it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError("no permission to write there")
    except OSError as error:
        raise ValueError(f"folder {folder}: {error}; give another one by --out") from error
