r"""`python -m minillm export`: a model for other programs."""

import json
from pathlib import Path
from typing import Annotated

import typer

from minillm.cli import adapters, options

WEIGHTS = {"hf": "fp32", "gguf": "f16"}  # where nothing is asked for


def export_command(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write; must not exist, or be empty.")],
    to: Annotated[str, typer.Option(help="hf: for transformers and vLLM; gguf: for llama.cpp.", show_default=False)],
    checkpoint: options.Checkpoint = None,
    model: options.Model = None,
    adapter: adapters.Adapter = None,
    weights: Annotated[
        str | None, typer.Option(help="hf: fp32, fp16 or bf16; gguf: f16 or q8_0. By default fp32 and f16.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    r"""Write a model to a folder for other programs.

    Models with LLaMA's parts only: RoPE, RMSNorm, a gated FFN; any other is refused, with the field that differs. A
    byte-level BPE tokenizer comes along; of other tokenizers the folder holds nothing, and the command says so. An
    adapter is merged into the weights first.
    """
    if to not in WEIGHTS:
        raise ValueError(f"--to {to}: use hf or gguf")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"{directory} is not empty; give a folder that is, or that does not exist")
    from minillm.pretrained.to_gguf import to_gguf
    from minillm.pretrained.to_hf import to_hf

    source, decoder, tokenizer, _ = adapters.open_tuned(checkpoint, model, "fp32", "cpu", adapter)
    if hasattr(decoder, "card"):
        raise ValueError(f"--adapter {adapter}: made by {decoder.card.method}, which cannot be merged into the "
                         "weights; other programs know no such parts")
    exported = (to_hf if to == "hf" else to_gguf)(decoder, tokenizer, directory, weights or WEIGHTS[to])
    sizes = {str(path): path.stat().st_size for path in exported.files}
    if as_json:
        print(json.dumps({"source": source, "to": to, "files": sizes, "notes": exported.notes}))
        return
    for path, size in sizes.items():
        print(f"{size / 1e6:9.1f} MB  {path}")
    for note in exported.notes:
        print(f"Note: {note}.")
