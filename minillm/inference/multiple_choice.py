r"""Multiple choice: the answer that the model holds likeliest, and how sure it is."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minillm.inference import calibration
from minillm.inference.text import encode_prompt
from minillm.layers import softmax


@dataclass(frozen=True)
class ChoiceQuestion:
    r"""One question with its choices.

    Args:
        question: the text before each choice.
        choices: at least two.
        answer: which is right, counted from 0.
    Raises:
        ValueError: if there are fewer than two choices, an empty one, or the answer is none of them.
    Lesson: 16.
    """

    question: str
    choices: tuple[str, ...]
    answer: int

    def __post_init__(self) -> None:
        if len(self.choices) < 2 or not all(choice.strip() for choice in self.choices):
            raise ValueError(f"choices={self.choices!r}: give at least two, none of them empty")
        if not 0 <= self.answer < len(self.choices):
            raise ValueError(f"answer={self.answer}: choices are counted from 0 to {len(self.choices) - 1}")


@dataclass(frozen=True, eq=False)
class MultipleChoiceReport:
    r"""How a model did on multiple choice.

    Args:
        accuracy: share of the questions that it got right.
        chance: the accuracy of a blind guess.
        ece: expected calibration error of its confidences.
        n_questions: N, how many there were.
        confidences: (N,), float32: the probability that it gave to its choice, among the choices.
        correct: (N,), bool: whether the choice was right.
    Lesson: 16.
    """

    accuracy: float
    chance: float
    ece: float
    n_questions: int
    confidences: Tensor
    correct: Tensor


def read_choice_questions(path: str | Path) -> list[ChoiceQuestion]:
    r"""Read questions from a JSON file.

    Args:
        path: of a file that holds a list of objects: "question", a string; "choices", a list of strings; "answer", the
            number of the right one, counted from 0. Other keys are not looked at.
    Returns: the questions, at least one.
    Raises:
        ValueError: if the file cannot be read or holds something else; the message names the place.
    Lesson: 16.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(values, list) or not values:
        raise ValueError(f"{path} holds no list of questions; write [{{\"question\": ..., \"choices\": [...], "
                         "\"answer\": 0}, ...]")
    return [_question(value, f"{path}, question {number}") for number, value in enumerate(values, start=1)]


def continuation_log_probs(
    logits: Float[Tensor, "B T V"], token_ids: Int[Tensor, "B T"], counted: Bool[Tensor, "B T"]
) -> Float[Tensor, "B"]:
    r"""How likely a model holds some tokens of each row, given what stands before each: the mean log-probability.

    Args:
        logits: (B, T, V), float: what a model gave that has read token_ids.
        token_ids: (B, T), int64.
        counted: (B, T), bool, True = a token whose probability counts; at least one a row, and never the first.
    Returns: (B,), float32: nats, at most 0.
    Raises:
        ValueError: if a first token is counted, or in some row none.
    Source: Brown et al. 2020 (GPT-3), section 2.4: the likelihood of each completion, divided by its length.
    Lesson: 16.
    """
    if bool(counted[:, 0].any()) or not bool(counted.any(dim=1).all()):
        raise ValueError("counted: nothing stands before the first token of a row, so it can't count; another must")
    log_probs = softmax.log_softmax(logits[:, :-1].float())
    of_tokens = log_probs.gather(-1, token_ids[:, 1:, None])[..., 0]
    counted = counted[:, 1:]
    return of_tokens.masked_fill(~counted, 0.0).sum(dim=1) / counted.sum(dim=1)


def choice_scores(
    model: Any, tokenizer: Any, question: str, choices: Sequence[str], prompt: str = "Question: {}\nAnswer:"
) -> Float[Tensor, "C"]:
    r"""The mean log-probability of each choice as the answer to a question.

    The mean, and not the sum, because a sum of many logarithms is low for no other reason than that they are many.

    Args:
        model: a GPT, in evaluation mode.
        tokenizer: of the model.
        question: what is asked; empty if the choices are to stand alone.
        choices: C texts.
        prompt: what the model reads before a blank and the choice; {} stands for the question.
    Returns: (C,), float32, nats, on the CPU.
    Raises:
        ValueError: if a choice has no token, or a row is too long for the model.
    Source: Brown et al. 2020 (GPT-3), section 2.4.
    Lesson: 16.
    """
    before = encode_prompt(tokenizer, prompt.replace("{}", question), model.config.max_seq_len)
    rows = [tokenizer.encode(f" {choice.strip()}") for choice in choices]
    longest = len(before) + max(map(len, rows))
    if not all(rows) or longest > model.config.max_seq_len:
        raise ValueError(f"choices={choices!r}: with the question they have up to {longest} tokens; each must have "
                         f"one, and there is room for max_seq_len={model.config.max_seq_len}")
    device = next(model.parameters()).device
    token_ids = torch.tensor([before + row + [0] * (longest - len(before) - len(row)) for row in rows], device=device)
    lengths = torch.tensor([[len(before) + len(row)] for row in rows], device=device)
    places = torch.arange(longest, device=device)
    counted = (places >= len(before)) & (places < lengths)
    with torch.no_grad():
        logits = model(token_ids, padding_mask=places < lengths)
    start = len(before) - 1  # nothing is asked about the tokens of the question
    return continuation_log_probs(logits[:, start:], token_ids[:, start:], counted[:, start:]).cpu()


def judge_questions(
    model: Any, tokenizer: Any, questions: Sequence[ChoiceQuestion], n_bins: int = 10, **how: Any
) -> MultipleChoiceReport:
    r"""Let a model answer questions: its choice is the one with the highest score.

    Args:
        model: a GPT, in evaluation mode.
        tokenizer: of the model.
        questions: at least one.
        n_bins: of the calibration error.
        how: `prompt`, as `choice_scores` takes it.
    Returns: the report; confidences are the softmax of the scores of a question's choices.
    Raises:
        ValueError: if there is no question.
    Lesson: 16.
    """
    if not questions:
        raise ValueError("questions is empty: give at least one")
    scores = [choice_scores(model, tokenizer, each.question, each.choices, **how) for each in questions]
    confidences = torch.stack([softmax.softmax(each).max() for each in scores])
    correct = torch.tensor([int(each.argmax()) == q.answer for each, q in zip(scores, questions, strict=True)])
    return MultipleChoiceReport(
        accuracy=float(correct.double().mean()), chance=sum(1 / len(q.choices) for q in questions) / len(questions),
        ece=calibration.expected_calibration_error(confidences, correct, n_bins), n_questions=len(questions),
        confidences=confidences, correct=correct)


def _question(value: Any, where: str) -> ChoiceQuestion:
    try:
        question, choices, answer = value["question"], value["choices"], value["answer"]
        fits = isinstance(question, str) and isinstance(choices, list) and all(isinstance(c, str) for c in choices)
        if not fits or isinstance(answer, bool) or not isinstance(answer, int):
            raise TypeError('"question" is a string, "choices" a list of strings, "answer" a number')
        return ChoiceQuestion(question, tuple(choices), answer)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error.args[0] if not isinstance(error, KeyError) else f'{error} is missing'}"
                         ) from error
