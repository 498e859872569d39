r"""`python -m minillm chat`: you begin, the model goes on; or you ask, and the model answers."""

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any

import typer

from minillm.cli import adapters, options
from minillm.cli import fast as fast_option

TALK_WELCOME = """{folder} answers. An empty line begins a new talk; Ctrl-D ends."""
WELCOME = """{folder}: begin a text, and the model goes on. An empty line lets it begin by itself; Ctrl-D ends."""
STORY_WELCOME = """{folder}: begin a story, and the model tells on. An empty line lets it begin by itself; Ctrl-D ends.
It knows only the {n_words} words of the stories; try: {beginning}"""


def chat_command(
    checkpoint: options.Checkpoint = None,
    model: options.Model = None,
    adapter: adapters.Adapter = None,
    weights: options.Weights = "fp32",
    fast: fast_option.Fast = True,
    system: Annotated[str | None, typer.Option(help="For a model that answers: what it is told at the begin.")] = None,
    temperature: options.TalkTemperature = None,
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
    r"""You begin, the model goes on; or you ask, and the model answers.

    A model that was trained to answer, such as --model smollm2, answers each line, and sees the talk so far. To any
    other, each line that you type is the beginning of a text. What a model trained on stories tells is judged at once:
    is it a story, and if not, which word is wrong? With --json: one object for each line read.
    """
    import torch

    from minillm.inference.chat import stream_reply
    from minillm.inference.steering import Steering
    from minillm.inference.text import stream_text

    device, seed = options.resolve_device(device), options.resolve_seed(seed)
    folder, network, tokenizer, _ = fast_option.open_writer(checkpoint, model, weights, device, fast, adapter)
    answers = getattr(tokenizer, "chat_template", None) is not None
    if system is not None and not answers:
        raise ValueError(f"--system is for a model that answers, and {folder} only goes on from a text")
    steering = Steering(
        repetition_penalty=repetition_penalty, frequency=frequency_penalty, presence=presence_penalty,
        no_repeat_ngram=no_repeat_ngram, min_new_tokens=min_new_tokens, stops=tuple(stop or ()),
        regex=regex)
    if temperature is None:
        temperature = 0.2 if answers else 1.0
    write = partial(
        stream_reply if answers else stream_text, network, tokenizer, max_new_tokens=max_new_tokens,
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, typical_p=typical_p,
        generator=torch.Generator(device).manual_seed(seed), steering=steering)
    if answers:
        turns = talk(write, folder, system, show=not as_json)
    else:
        turns = go_on(write, folder, story_language(tokenizer), show=not as_json)
    for turn in turns:
        if as_json:
            print(json.dumps({**turn, "seed": seed}, ensure_ascii=False), flush=True)
        else:
            print(turn.get("error") or turn.get("verdict", ""))


def go_on(write: Callable[[str], Iterator[str]], folder: str, language: Any, show: bool) -> Iterator[dict[str, Any]]:
    r"""Let the model go on from each line that the user types.

    Args:
        write: from a beginning to pieces of text that follow it.
        folder: of the checkpoint.
        language: from `story_language`.
        show: whether to print the text while it is written.
    Returns: an iterator over turns, each as `take_turn` gives it, or with an `error`.
    """
    if show:
        print(welcome(folder, language))
    for beginning in typed_lines(show):
        try:
            yield take_turn(write, language, beginning, show)
        except ValueError as error:  # a word that the model does not know, say: the talk goes on
            yield {"text": beginning, "error": str(error)}


def talk(
    write: Callable[[list[dict[str, str]]], Iterator[str]], folder: str, system: str | None, show: bool
) -> Iterator[dict[str, Any]]:
    r"""Let the model answer each line that the user types, with the talk so far before it.

    Args:
        write: from messages to pieces of the answer.
        folder: what the model is called.
        system: what the model is told first; None = what its template says.
        show: whether to print the answer while it is written.
    Returns: an iterator over turns with `text`, what the user said, and `reply`; or with an `error`.
    """
    if show:
        print(TALK_WELCOME.format(folder=folder))
    begin = [] if system is None else [{"role": "system", "content": system}]
    messages = list(begin)
    for line in typed_lines(show):
        if not line:
            messages = list(begin)
            continue
        asked, reply = [*messages, {"role": "user", "content": line}], ""
        try:
            for piece in write(asked):
                if show:
                    print(piece, end="", flush=True)
                reply += piece
        except ValueError as error:
            yield {"text": line, "error": str(error)}
            continue
        messages = [*asked, {"role": "assistant", "content": reply}]
        yield {"text": line, "reply": reply}


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
