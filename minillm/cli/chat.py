r"""`python -m minillm chat`: you begin, the model goes on."""

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from minillm.cli import options, runs

WELCOME = """{folder}: begin a text, and the model goes on. An empty line lets it begin by itself; Ctrl-D ends."""
STORY_WELCOME = """{folder}: begin a story, and the model tells on. An empty line lets it begin by itself; Ctrl-D ends.
It knows only the {n_words} words of the stories; try: {beginning}"""


def chat_command(
    checkpoint: options.Checkpoint = None,
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
    max_new_tokens: options.MaxNewTokens = None,
    seed: options.Seed = None,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    r"""You begin, the model goes on.

    Each line that you type is the beginning of a text. What a model trained on stories tells is judged at once: is it
    a story, and if not, which word is wrong? With --json: one object for each line read.
    """
    import torch

    from minillm.inference.steering import Steering
    from minillm.inference.text import stream_text
    from minillm.training.checkpoint import load

    device, seed = options.resolve_device(device), options.resolve_seed(seed)
    folder = runs.find_run(checkpoint)
    model, tokenizer, _ = load(folder, device)
    language = story_language(tokenizer)
    steering = Steering(
        repetition_penalty=repetition_penalty, frequency=frequency_penalty, presence=presence_penalty,
        no_repeat_ngram=no_repeat_ngram, typical_p=typical_p, min_new_tokens=min_new_tokens, stops=tuple(stop or ()),
        regex=regex)
    write = partial(
        stream_text, model, tokenizer, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p,
        min_p=min_p, generator=torch.Generator(device).manual_seed(seed), steering=steering)
    if not as_json:
        print(welcome(str(folder), language))
    for beginning in typed_lines(not as_json):
        try:
            turn = take_turn(write, language, beginning, show=not as_json)
        except ValueError as error:  # a word that the model does not know, say: the talk goes on
            turn = {"text": beginning, "error": str(error)}
        if as_json:
            print(json.dumps({**turn, "seed": seed}, ensure_ascii=False), flush=True)
        else:
            print(turn.get("error") or turn.get("verdict", ""))


def take_turn(write: Callable[[str], Iterator[str]], language: Any, beginning: str, show: bool) -> dict[str, Any]:
    r"""Let the model go on once, and judge the whole.

    Args:
        write: from a beginning to pieces of text that follow it.
        language: from `story_language`.
        beginning: what the user typed.
        show: whether to print the text while it is written.
    Returns: `text`, and for stories `ok` and `verdict`.
    Raises:
        ValueError: if the model cannot go on from there.
    """
    text = ""
    for piece in write(beginning):
        if show:
            print(piece if text else beginning + piece, end="", flush=True)
        text += piece
    if show:
        print(end="\n" if text else beginning + "\n")
    return {"text": beginning + text, **judged(language, beginning + text)}


def story_language(tokenizer: Any) -> Any:
    r"""The story language, if the tokenizer is the one of its words; else None."""
    from minillm.text.stories import StoryLanguage

    language = StoryLanguage()
    return language if tokenizer.to_dict() == language.tokenizer.to_dict() else None


def welcome(folder: str, language: Any) -> str:
    r"""What to say first.

    Args:
        folder: of the checkpoint.
        language: from `story_language`.
    Returns: some lines.
    """
    if language is None:
        return WELCOME.format(folder=folder)
    import random

    words = language.sample(random.Random()).split()
    n_words = len(language.vocabulary) - 3
    return STORY_WELCOME.format(folder=folder, n_words=n_words, beginning=" ".join(words[:5]))


def typed_lines(prompt: bool) -> Iterator[str]:
    r"""The lines that the user types, or that come through a pipe, until there are no more.

    Args:
        prompt: whether to show that it is the user's turn.
    Returns: an iterator over lines without surrounding white space.
    """
    while True:
        try:
            yield input("\n> " if prompt else "").strip()
        except (EOFError, KeyboardInterrupt):
            print(file=sys.stderr)
            return


def judged(language: Any, text: str) -> dict[str, Any]:
    r"""What the story checker says.

    Args:
        language: from `story_language`.
        text: what was told.
    Returns: `ok` and `verdict`; nothing where there is no checker.
    """
    if language is None:
        return {}
    verdict = language.check(text)
    return {"ok": verdict.ok, "verdict": f"(not right: {verdict.why})" if verdict.why else "(right in every word)"}
