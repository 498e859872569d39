r"""Where training runs live: runs/NAME, one folder a run, none ever written over by another; and opening a model."""

from itertools import count
from pathlib import Path
from typing import Any

RUNS = Path("runs")
INDEX_FILE = "checkpoint.json"


def new_run_dir(out: Path | None, corpus: str) -> Path:
    r"""The folder for a new run.

    Args:
        out: what the user asked for; must not exist, or be empty. None = runs/CORPUS, or the first of runs/CORPUS-2,
            runs/CORPUS-3, ... that does not exist.
        corpus: name of the corpus, or a path, of which the last part is taken.
    Returns: the path; nothing is made yet.
    Raises:
        ValueError: if out is taken.
    """
    if out is not None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(f"--out {out} is not empty; give another folder, or go on with a run by --resume {out}")
        return out
    name = Path(corpus).resolve().stem or "text"
    names = (name if i == 1 else f"{name}-{i}" for i in count(1))
    return next(RUNS / each for each in names if not (RUNS / each).exists())


def find_run(checkpoint: Path | None) -> Path:
    r"""The run to use.

    Args:
        checkpoint: what the user asked for; None = the one in runs/ that was written last.
    Returns: its folder.
    Raises:
        ValueError: if there is no run yet.
    """
    if checkpoint is not None:
        return checkpoint
    indices = sorted(RUNS.glob(f"*/{INDEX_FILE}"), key=lambda path: path.stat().st_mtime)
    if not indices:
        raise ValueError(f"there is no checkpoint in {RUNS}/; train one first: python -m minillm train")
    return indices[-1].parent


def open_model(
    checkpoint: Path | None, model: str | None, weights: str, device: str
) -> tuple[str, Any, Any, dict[str, Any]]:
    r"""The model to use, a trained or a real one.

    Args:
        checkpoint: the run that the user asked for; None = the newest.
        model: the real model that the user asked for; None = none.
        weights: how they are held: fp32, fp16, bf16, int8 or int4.
        device: on which the model works.
    Returns: where it is from, the model in evaluation mode, its tokenizer, and what the run says of itself.
    Raises:
        ValueError: if both were asked for, there is no such model, or its weights cannot be held like that.
    """
    if model is None:
        from minillm.training.checkpoint import load

        folder = find_run(checkpoint)
        trained, tokenizer, about = load(folder, device)
        if weights != "fp32":  # as training keeps them
            from minillm.pretrained.loading import held_as

            trained = held_as(trained, weights)
        return str(folder), trained, tokenizer, about
    if checkpoint is not None:
        raise ValueError(f"--model {model} --checkpoint {checkpoint}: these are two models; give one of them")
    from minillm import pretrained

    return model, *pretrained.load(model, weights=weights, device=device), {}
