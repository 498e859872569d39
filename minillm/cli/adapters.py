r"""The option --adapter: a model with the small part that tuning has made of it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from minillm.cli import runs

Adapter = Annotated[
    Path | None,
    typer.Option(help="Put this on the model: a file that train --lora, or minillm.tuning.save, wrote. It is merged, "
                 "where that can be; not with int4, in which a small change would be rounded off.",
                 show_default=False),
]
FLOATS = ("fp32", "fp16", "bf16")
COARSE = "int4"  # where steps between weights are larger than most changes


def open_tuned(
    checkpoint: Path | None, model: str | None, weights: str, device: str, adapter: Path | None
) -> tuple[str, Any, Any, dict[str, Any]]:
    r"""As `runs.open_model`, with an adapter on it.

    What can be merged is merged, in float32, and only then held as asked: the model is a plain one again, and as fast.
    Not so in 4 bits: SmolLM2 comes from a file in 4 bits, and rounding takes a merged matrix back to just the numbers
    that it had.

    Args:
        checkpoint: as there.
        model: as there.
        weights: as there.
        device: as there.
        adapter: the file; None = no adapter.
    Returns: as there; where it is from names the adapter too.
    Raises:
        ValueError: as there, or if the file does not fit the model.
    """
    if adapter is None:
        return runs.open_model(checkpoint, model, weights, device)
    origin, network, tokenizer, about = runs.open_model(checkpoint, model, "fp32", device)
    return f"{origin} + {adapter.name}", with_adapter(network, adapter, weights), tokenizer, about


def with_adapter(network: Any, adapter: Path, weights: str) -> Any:
    r"""A model with an adapter, merged where that can be and leaves it whole.

    Args:
        network: the base, in float32.
        adapter: a file of `minillm.tuning.save`.
        weights: how the result holds its weights.
    Returns: a new model in evaluation mode.
    Raises:
        ValueError: if the file does not fit the model, or its method cannot be held in such weights.
    """
    from minillm import tuning
    from minillm.pretrained.loading import held_as
    from minillm.tuning.lora_model import MERGEABLE

    tuned = tuning.load(network, adapter)
    methods = [step.method for step in tuned.card.steps()]
    if all(method in MERGEABLE for method in methods):
        if weights == COARSE:
            return tuning.load(held_as(network, weights), adapter).eval()
        tuned = tuning.merged(tuned)
    elif weights not in FLOATS:
        raise ValueError(f"--weights {weights} --adapter {adapter}: made by {', '.join(methods)}, which stays beside "
                         f"the weights and cannot be merged into them; use one of {', '.join(FLOATS)}")
    return (tuned if weights == "fp32" else held_as(tuned, weights)).eval()
