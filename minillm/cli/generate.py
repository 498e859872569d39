r"""`python -m minillm generate`: let a trained model write."""

import json
from typing import Annotated

import typer

from minillm.cli import options, runs


def generate_command(
    prompt: Annotated[str, typer.Argument(help="How the text begins; stories can begin from nothing.")] = "",
    checkpoint: options.Checkpoint = None,
    n: Annotated[int, typer.Option("--n", min=1, help="How many texts.")] = 1,
    max_new_tokens: options.MaxNewTokens = None,
    temperature: options.Temperature = 1.0,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    seed: options.Seed = None,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    r"""Let a trained model write.

    The text appears as it is written. With --json: one object with the texts, the prompt included, and the seed.
    """
    import torch

    from minillm.inference.text import stream_text
    from minillm.training.checkpoint import load

    device, seed = options.resolve_device(device), options.resolve_seed(seed)
    folder = runs.find_run(checkpoint)
    model, tokenizer, _ = load(folder, device)
    generator = torch.Generator(device).manual_seed(seed)
    texts = []
    for _ in range(n):
        pieces = [prompt]
        if not as_json:
            print(prompt, end="", flush=True)
        for piece in stream_text(model, tokenizer, prompt, max_new_tokens, temperature=temperature, top_k=top_k,
                                 top_p=top_p, min_p=min_p, generator=generator):
            pieces.append(piece)
            if not as_json:
                print(piece, end="", flush=True)
        texts.append("".join(pieces))
        if not as_json:
            print()
    if as_json:
        print(json.dumps({"texts": texts, "seed": seed, "checkpoint": str(folder)}, ensure_ascii=False))
    else:
        typer.echo(f"({folder}, seed {seed})", err=True)
