r"""`python -m minillm generate`: let a trained model write."""

import json
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import typer

from minillm.cli import adapters, options
from minillm.cli import fast as fast_option


def generate_command(
    prompt: Annotated[str, typer.Argument(help="How the text begins; stories can begin from nothing.")] = "",
    checkpoint: options.Checkpoint = None,
    model: options.Model = None,
    adapter: adapters.Adapter = None,
    weights: options.Weights = "fp32",
    fast: fast_option.Fast = True,
    n: Annotated[int, typer.Option("--n", min=1, help="How many texts.")] = 1,
    max_new_tokens: options.MaxNewTokens = None,
    temperature: options.Temperature = 1.0,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    typical_p: options.TypicalP = None,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    frequency_penalty: options.FrequencyPenalty = 0.0,
    presence_penalty: options.PresencePenalty = 0.0,
    no_repeat_ngram: options.NoRepeatNgram = None,
    min_new_tokens: options.MinNewTokens = 0,
    stop: options.Stop = None,
    regex: options.Regex = None,
    beams: options.Beams = None,
    length_penalty: Annotated[float, typer.Option(help="With --beams: larger favours longer texts.")] = 1.0,
    seed: options.Seed = None,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    r"""Let a trained model write.

    The text appears as it is written; with --beams all of them at the end, the best first. With --json: one object
    with the texts, the prompt included, and the seed.
    """
    from minillm.inference.steering import Steering

    steering = Steering(
        repetition_penalty=repetition_penalty, frequency=frequency_penalty, presence=presence_penalty,
        no_repeat_ngram=no_repeat_ngram, min_new_tokens=min_new_tokens, stops=tuple(stop or ()),
        regex=regex)
    if beams is not None and n > beams:
        raise ValueError(f"--n {n} --beams {beams}: there are as many texts as beams; use at least --beams {n}")
    device, seed = options.resolve_device(device), options.resolve_seed(seed)
    origin, *opened, _ = fast_option.open_writer(checkpoint, model, weights, device, fast and beams is None, adapter)
    chance = dict(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, typical_p=typical_p)
    texts = []
    for pieces in written(*opened, prompt, n, max_new_tokens, seed, chance, steering, beams, length_penalty):
        texts.append(prompt)
        if not as_json:
            print(prompt, end="", flush=True)
        for piece in pieces:
            texts[-1] += piece
            if not as_json:
                print(piece, end="", flush=True)
        if not as_json:
            print()
    if as_json:
        origin_key = "checkpoint" if model is None else "model"
        print(json.dumps({"texts": texts, "seed": seed, origin_key: origin}, ensure_ascii=False))
    else:
        typer.echo(f"({origin}, seed {seed})", err=True)


def written(
    model: Any,
    tokenizer: Any,
    prompt: str,
    n: int,
    max_new_tokens: int | None,
    seed: int,
    chance: dict[str, Any],
    steering: Any,
    beams: int | None,
    length_penalty: float,
) -> Iterator[Iterable[str]]:
    r"""Let a model write n texts.

    Args:
        model: in evaluation mode.
        tokenizer: of the model.
        prompt: how each text begins.
        n: how many.
        max_new_tokens: tokens at most; None = as many as there is room for.
        seed: of all chance.
        chance: temperature and filters.
        steering: penalties, stop strings and a pattern.
        beams: of a beam search; None = draw.
        length_penalty: of a beam search.
    Returns: an iterator over texts, each an iterable of pieces.
    """
    import torch

    from minillm.inference.text import beam_texts, stream_text

    if beams is not None:
        found = beam_texts(model, tokenizer, prompt, max_new_tokens, n_beams=beams, length_penalty=length_penalty,
                           steering=steering)
        yield from ([text] for text, _ in found[:n])
        return
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    for _ in range(n):
        yield stream_text(model, tokenizer, prompt, max_new_tokens, **chance, generator=generator, steering=steering)
