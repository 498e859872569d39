r"""Options that several commands share, and what they mean."""

import secrets
from pathlib import Path
from typing import Annotated

import typer

Seed = Annotated[int | None, typer.Option(min=0, help="Source of all chance; drawn afresh and reported if not given.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps; auto is cuda where there is one, else cpu.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")]
Checkpoint = Annotated[
    Path | None, typer.Option(help="Folder that training wrote; the newest in runs/ if not given.", show_default=False)
]
Model = Annotated[
    str | None,
    typer.Option(help="A real model instead: smollm2, or the path of a GGUF file or of a folder with safetensors.",
                 show_default=False),
]
Weights = Annotated[str, typer.Option(help="How the model holds its weights: fp32, fp16, bf16, int8 or int4.")]
MaxNewTokens = Annotated[
    int | None, typer.Option(min=1, help="Tokens to write at most; as many as the model has room for if not given.")
]
Temperature = Annotated[float, typer.Option(min=0.0, help="Below 1 more careful, above 1 wilder; 0 = no chance.")]
TalkTemperature = Annotated[
    float | None, typer.Option(min=0.0, help="As in generate; if not given 1, or 0.2 for a model that answers.")
]
TopK = Annotated[int | None, typer.Option(min=1, help="Draw only among the k likeliest tokens.")]
TopP = Annotated[float | None, typer.Option(help="Draw only among the likeliest tokens up to this mass, in (0, 1].")]
MinP = Annotated[float | None, typer.Option(help="Draw only tokens at least this share as likely as the likeliest.")]
TypicalP = Annotated[float | None, typer.Option(help="Draw only tokens of nearly average surprise, up to this mass.")]
RepetitionPenalty = Annotated[float, typer.Option(help="Above 1: what was read or written becomes less likely.")]
FrequencyPenalty = Annotated[float, typer.Option(help="Taken off a token's logit each time it has been written.")]
PresencePenalty = Annotated[float, typer.Option(help="Taken off a token's logit once it has been written.")]
NoRepeatNgram = Annotated[int | None, typer.Option(min=1, help="Never the same N tokens in a row a second time.")]
MinNewTokens = Annotated[int, typer.Option(min=0, help="Tokens to write before the text may end.")]
Stop = Annotated[list[str] | None, typer.Option(help="End before this string; may be given several times.")]
Beams = Annotated[
    int | None, typer.Option(min=1, help="Look for the likeliest texts with so many beams, without chance.")
]
Regex = Annotated[
    str | None, typer.Option(help="What is written after the beginning must match this regular expression as a whole.")
]


def resolve_device(name: str) -> str:
    r"""The device of that name, if this machine has it.

    Args:
        name: `auto`, `cpu`, `cuda` or `mps`.
    Returns: `cpu`, `cuda` or `mps`.
    Raises:
        ValueError: if the name is unknown, or this machine has no such device.
    """
    import torch

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return "cuda" if there["cuda"] else "cpu"
    if name not in there:
        raise ValueError(f"--device {name}: use one of {['auto', *there]}")
    if not there[name]:
        raise ValueError(f"--device {name}: this machine, or this build of torch, has none; use --device cpu or auto")
    return name


def resolve_seed(seed: int | None) -> int:
    r"""The seed that was given, or a fresh one, which differs from run to run."""
    return secrets.randbelow(2**31) if seed is None else seed
