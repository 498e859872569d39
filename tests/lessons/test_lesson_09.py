r"""Lesson 09: writing runs the learner's code, and the bug that is shown is a mistake that the check knows."""

import ast

import pytest
import torch

from minillm.config import preset
from minillm.course import exercises, mine, shelf
from minillm.course.builder import ROOT
from minillm.course.builder.lesson_file import read_lesson
from minillm.course.catalogue import exercise_named
from minillm.inference.beam import beam_search
from minillm.inference.generate import generate
from minillm.inference.steering import Steering
from minillm.model.gpt import GPT

EVERYTHING = {"temperature": 0.9, "top_k": 5, "top_p": 0.9, "min_p": 0.01}


@pytest.fixture(autouse=True)
def empty_shelf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "IN_MEMORY", shelf.Shelf())


def write_a_little() -> None:
    model, prompt = GPT(preset("tiny", vocab_size=11, max_seq_len=16)).eval(), torch.tensor([[1, 2, 3]])
    steering = Steering(repetition_penalty=1.3, no_repeat_ngram=2)
    generate(model, prompt, 2, processors=steering.processors(3, ()), **EVERYTHING)
    beam_search(model, prompt, 2, n_beams=2)


PARTS = [exercise.id for exercise in exercises() if exercise.lesson == "09"]


@pytest.mark.parametrize("part", PARTS)
def test_writing_raises_where_a_part_of_the_learner_raises(part: str) -> None:
    with mine.active():
        write_a_little()
    assert {name: calls for name, _, calls in mine.table().rows}[part] >= 2
    source = f"def {part.rpartition('.')[2]}(*args, **kwargs):\n    raise ArithmeticError('mine')\n"
    shelf.IN_MEMORY.keep_attempt(part, source)
    with pytest.raises(ArithmeticError, match="mine"), mine.active():
        write_a_little()


def test_the_bug_that_is_shown_is_a_mistake_that_the_check_knows() -> None:
    cell = read_lesson(ROOT, "09_generation").named_cell("a_penalty_that_rewards")
    (shown,) = [node for node in ast.parse(cell.text).body if isinstance(node, ast.FunctionDef)]
    namespace: dict = {"torch": torch}
    exec(ast.unparse(shown), namespace)

    def without_padding(logits, token_ids, penalty):
        if penalty <= 0:
            raise ValueError(f"penalty={penalty}: use a number above 0")
        wider = torch.nn.functional.pad(logits, (1, 0))  # the paper knows no padding: it falls into a column of its own
        return namespace["as_the_paper_writes_it"](wider, token_ids + 1, penalty)[:, 1:]

    verdict = exercise_named("inference.penalties.repetition_penalty").judge(without_padding)
    assert verdict.mistake == "always divided"
