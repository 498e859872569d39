r"""`train --lora`: a small part for a model that stays as it is."""

import os
import time
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import torch

from minillm import tuning
from minillm.cli import corpora, runs
from minillm.inference.evaluate import batch_nats
from minillm.model.counting import n_trainable
from minillm.text import corpora as texts
from minillm.text import talks
from minillm.training.accumulation import MicroBatch
from minillm.training.callbacks import History, ProgressBar
from minillm.training.freed_memory import keep_freed_memory
from minillm.training.loop import train
from minillm.training.recipe import Recipe

DEFAULTS = {"corpus": None, "model": None, "checkpoint": None, "seq_len": 256, "batch_size": 4, "learning_rate": 2e-3,
            "warmup_steps": 5, "schedule": "linear", "accumulation": 1, "dtype": "auto", "recompute": False,
            "threads": None, "rank": 8, "alpha": 16.0, "targets": None}
IN_RECIPE = ("learning_rate", "warmup_steps", "schedule", "accumulation", "dtype", "recompute")
SUFFIX = ".safetensors"
KEPT_SHARE = 10  # one example in so many is kept for validation
VALIDATION_CHARACTERS = 4000  # of a text, for a real model takes seconds for each thousand


class TalkCorpus:
    r"""Examples of a JSON lines file, of which one in ten is never learned from.

    Args:
        name: of the file.
        text: of the file.
        tokenizer: of the model.
        seq_len: tokens of an example at most.
        generator: decides which are kept.
    Raises:
        ValueError: if a line cannot be used.
    """

    def __init__(self, name: str, text: str, tokenizer: Any, seq_len: int, generator: torch.Generator) -> None:
        try:
            examples = talks.make_examples(tokenizer, talks.read_jsonl(text), seq_len)
        except ValueError as error:
            raise ValueError(f"--corpus {name}: {error}") from error
        order = torch.randperm(len(examples), generator=generator).tolist()
        n_kept = len(examples) // KEPT_SHARE
        self.kept, self.learned = ([examples[i] for i in part] for part in (order[:n_kept], order[n_kept:]))

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[MicroBatch]:
        r"""Batches without end, in a new order each round."""
        return talks.example_batches(self.learned, batch_size, generator)

    def nats(self, model: Any) -> float | None:
        r"""The surprise at what was kept, in nats a token; None where the file is too short to keep any."""
        if not self.kept:
            return None
        device = next(model.parameters()).device
        rows = max(1, corpora.N_LOGITS // (max(len(ids) for ids, _ in self.kept) * model.config.vocab_size))
        counted = [batch_nats(model, *(part.to(device) for part in talks.pad_examples(self.kept[i : i + rows])))
                   for i in range(0, len(self.kept), rows)]
        return sum(nats for nats, _ in counted) / sum(count for _, count in counted)


class PlainCorpus:
    r"""A text, read in random windows; its last tenth is never learned from.

    Args:
        name: as `corpora.read_corpus` takes it.
        tokenizer: of the model.
        seq_len: tokens in a window.
    Raises:
        ValueError: if there is no such text, or it is too short.
    """

    def __init__(self, name: str, tokenizer: Any, seq_len: int) -> None:
        self.whole = corpora.TextCorpus(name, corpora.read_corpus(name), tokenizer, 0, seq_len)

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[MicroBatch]:
        r"""Batches without end."""
        return self.whole.batches(batch_size, generator)

    def nats(self, model: Any) -> float:
        r"""The surprise at what was kept, or at its first part, in nats a token."""
        text = self.whole.validation_text[:VALIDATION_CHARACTERS]
        return corpora.judge_text(model, self.whole.tokenizer, text)["nats_per_token"]


def tune(
    given: Mapping[str, Any], quantized: bool, limits: Mapping[str, Any], out: Path | None, seed: int, device: str
) -> dict[str, Any]:
    r"""Train low-rank adapters for a model, and keep them in a file.

    Args:
        given: options that the user gave, of those in `DEFAULTS`.
        quantized: whether the base's matrices lie in NF4.
        limits: `steps` and `seconds`, each a number or None.
        out: the file; None = a new one in runs/.
        seed: of all chance.
        device: `cpu`, `cuda` or `mps`.
    Returns: the report, plain JSON data.
    Raises:
        ValueError: if an option is out of range, or a file cannot be used.
    """
    chosen = {**DEFAULTS, **given}
    recipe = Recipe(**{name: chosen[name] for name in IN_RECIPE})
    if chosen["corpus"] in (None, "stories"):
        raise ValueError("--lora: on what? Give by --corpus a text, python-docs, or a .jsonl with a talk or a text in "
                         f"each line: {talks.SHAPE}")
    out = new_file(out, chosen["corpus"])
    if chosen["threads"]:
        torch.set_num_threads(chosen["threads"])
    torch.manual_seed(seed)  # for dropout
    generator = torch.Generator().manual_seed(seed)
    origin, base, tokenizer, _ = runs.open_model(chosen["checkpoint"], chosen["model"], "fp32", device)
    corpus = open_examples(chosen["corpus"], tokenizer, min(chosen["seq_len"], base.config.max_seq_len), generator)
    targets = None if chosen["targets"] is None else [name.strip() for name in chosen["targets"].split(",")]
    tuned = (tuning.qlora if quantized else tuning.lora)(
        base, chosen["rank"], chosen["alpha"], targets, generator=generator)
    del base  # with --qlora its matrices go, and leave their memory
    history, before = History(), corpus.nats(tuned)
    keep_freed_memory()
    start = time.perf_counter()
    state = train(tuned, corpus.batches(chosen["batch_size"], generator), recipe, **limits,
                  callbacks=[history, ProgressBar()])
    seconds = time.perf_counter() - start
    tuning.save(tuned, out)
    return {
        "model": origin, "corpus": chosen["corpus"], "method": tuned.card.method, **tuned.card.settings,
        "trained": n_trainable(tuned), "steps": state.step, "tokens": state.tokens,
        "seconds": round(seconds, 3), "nats_before": before, "nats_after": corpus.nats(tuned), "seed": seed,
        "dtype": state.dtype, "device": str(state.device), "threads": torch.get_num_threads(),
        "losses": [round(info["loss"], 6) for info in history.steps], "out": str(out), "bytes": out.stat().st_size,
        "option": f"--model {chosen['model']}" if chosen["model"] else f"--checkpoint {origin}"}


def open_examples(name: str, tokenizer: Any, seq_len: int, generator: torch.Generator) -> TalkCorpus | PlainCorpus:
    r"""The corpus of that name: lines of JSON if it ends in .jsonl, else a text.

    Args:
        name: a path, or a name that `corpora.read_corpus` knows.
        tokenizer: of the model.
        seq_len: tokens of a window or an example at most.
        generator: decides which examples are kept for validation.
    Returns: the corpus.
    Raises:
        ValueError: if there is none, or it cannot be used.
    """
    if name.lower().endswith(".jsonl"):
        return TalkCorpus(name, texts.read_text(name), tokenizer, seq_len, generator)
    return PlainCorpus(name, tokenizer, seq_len)


def new_file(out: Path | None, corpus: str) -> Path:
    r"""Where the small part will be kept; found out before the training, and not after it.

    Args:
        out: what the user asked for; must not exist. None = runs/CORPUS.safetensors, or the first of
            runs/CORPUS-2.safetensors, ... that does not exist.
        corpus: name of the corpus, or a path.
    Returns: the path; its folder is there.
    Raises:
        ValueError: if it is taken, cannot be written, or has another ending.
    """
    if out is None:
        stem = Path(corpus).resolve().stem or "text"
        names = (f"{stem}{SUFFIX}" if i == 1 else f"{stem}-{i}{SUFFIX}" for i in count(1))
        out = next(runs.RUNS / name for name in names if not (runs.RUNS / name).exists())
    if out.suffix != SUFFIX:
        raise ValueError(f"--out {out}: with --lora it is a file; let its name end in {SUFFIX}")
    if out.exists():
        raise ValueError(f"--out {out}: is there already; give another name")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(out.parent, os.W_OK):
            raise PermissionError("no permission to write there")
    except OSError as error:
        raise ValueError(f"--out {out}: {error}; give another place") from error
    return out


def tuning_text(report: Mapping[str, Any]) -> str:
    r"""A report as lines to read.

    Args:
        report: from `tune`.
    Returns: the text.
    """
    lines = ["{trained:,} numbers trained beside {model}, by {method} with rank {rank}, in {seconds:.1f} s and {steps} "
             "steps, seed {seed}"]
    if report["nats_after"] is None:
        lines.append("too few examples to keep some for validation: nobody knows what it has learned, but you can look")
    else:
        lines.append("on what was kept for validation: {nats_before:.3f} nats a token before, {nats_after:.3f} after")
    lines.append("saved in {out} ({bytes:,} bytes); now try: python -m minillm chat {option} --adapter {out}")
    return "\n".join(lines).format(**report)
