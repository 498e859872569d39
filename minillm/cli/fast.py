r"""The option --fast, and opening a model for writing with it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from minillm.cli.adapters import open_tuned

Fast = Annotated[
    bool, typer.Option(help="With --model: write by the fast path, or by our own kernel where that can be built.")
]


def open_writer(
    checkpoint: Path | None, model: str | None, weights: str, device: str, fast: bool, adapter: Path | None = None
) -> tuple[str, Any, Any, dict[str, Any]]:
    r"""As `runs.open_model`, for writing: a real model in the form that does it fastest.

    What a checkpoint of our own writes by a seed stays the same from run to run: it keeps its own forward.

    Args:
        checkpoint: as there.
        model: as there.
        weights: as there.
        device: as there.
        fast: whether the user wants that.
        adapter: as in `open_tuned`.
    Returns: as there.
    Raises:
        ValueError: as there.
    """
    origin, network, tokenizer, about = open_tuned(checkpoint, model, weights, device, adapter)
    if fast and model is not None:
        from minillm.inference.fast.choose import fastest

        network = fastest(network)
    return origin, network, tokenizer, about
