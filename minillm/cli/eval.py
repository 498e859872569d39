r"""`python -m minillm eval`: how good is a trained model?"""

import json
from typing import Annotated, Any

import typer

from minillm.cli import adapters, options


def eval_command(
    checkpoint: options.Checkpoint = None,
    model: options.Model = None,
    adapter: adapters.Adapter = None,
    weights: options.Weights = "fp32",
    text: Annotated[str | None, typer.Option(help="Measure on this instead: python-docs, or a file or folder.")] = None,
    questions: Annotated[
        str | None,
        typer.Option(help="Ask this multiple choice instead: general-knowledge, or a JSON file: [{\"question\": ..., "
                     "\"choices\": [...], \"answer\": 0}, ...].", show_default=False)] = None,
    max_characters: Annotated[
        int | None, typer.Option(min=1, help="With --text: measure on its first so many characters.")] = None,
    n_stories: Annotated[int, typer.Option(min=1, help="For stories: validation stories to measure on.")] = 2048,
    n_samples: Annotated[int, typer.Option(min=1, help="For stories: stories to let the model tell.")] = 500,
    seed: options.Seed = None,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    r"""Measure how good a trained model is.

    A model of stories: nats a validation story against the entropy of the language, and how many stories that it tells
    the checker accepts. A model of a text: nats a token, perplexity and bits a byte, on the part kept for validation.
    With --text, any model on the whole of any text; with --questions, any model on multiple choice: how many it gets
    right, and how far it is off in how sure it is (expected calibration error); with --model, a real one.
    """
    import torch

    from minillm.cli import corpora

    if max_characters is not None and text is None:
        raise ValueError(f"--max-characters {max_characters} is for --text; give a text too")
    if text is not None and questions is not None:
        raise ValueError(f"--text {text} --questions {questions}: one after the other; give one of them")
    if model is not None and text is None and questions is None:
        raise ValueError(f"--model {model}: on what? Give a text by --text, or questions by --questions")
    asked = None if questions is None else read_asked(questions)  # a bad file is refused before a model is loaded
    device, seed = options.resolve_device(device), options.resolve_seed(seed)
    origin, network, tokenizer, about = adapters.open_tuned(checkpoint, model, weights, device, adapter)
    name = text or questions or about.get("settings", {}).get("corpus")
    if name is None:
        raise ValueError(f"{origin} does not say what it was trained on; give a text by --text")
    generator = torch.Generator(device).manual_seed(seed)
    if asked is not None:
        numbers = judge_asked(network, tokenizer, asked)
    elif text is not None:
        numbers = corpora.judge_text(network, tokenizer, corpora.read_corpus(text)[:max_characters])
    elif name == "stories":
        numbers = corpora.StoryCorpus(n_stories, n_samples).judge(network, generator)
    else:
        numbers = corpora.open_corpus(name, tokenizer).judge(network, generator)
    report = {"checkpoint" if model is None else "model": origin, "corpus": name, **numbers, "seed": seed}
    print(json.dumps(report) if as_json else "\n".join(f"{key:>22}  {shown(value)}" for key, value in report.items()))


def read_asked(name: str) -> list[Any]:
    r"""The questions of that name or path."""
    from minillm.course.questions import general_knowledge
    from minillm.inference.multiple_choice import read_choice_questions

    return read_choice_questions(general_knowledge() if name == "general-knowledge" else name)


def judge_asked(model: Any, tokenizer: Any, asked: list[Any]) -> dict[str, float]:
    r"""Accuracy, that of a blind guess, calibration error, mean confidence, and how many were asked."""
    from minillm.inference.multiple_choice import judge_questions

    report = judge_questions(model, tokenizer, asked)
    return {"accuracy": report.accuracy, "chance": report.chance, "ece": report.ece,
            "mean_confidence": float(report.confidences.mean()), "n_questions": report.n_questions}


def shown(value: object) -> str:
    r"""A value with as many digits as a reader wants."""
    return f"{value:.4f}" if isinstance(value, float) else str(value)
