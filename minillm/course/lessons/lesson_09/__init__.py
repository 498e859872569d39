r"""Exercises of lesson 09: temperature and filters, penalties against repetition, a step of beam search."""

from minillm.course.lessons.lesson_09.beams import BEAM_STEP
from minillm.course.lessons.lesson_09.floor import MIN_P_FILTER
from minillm.course.lessons.lesson_09.likeliest import TOP_K_FILTER
from minillm.course.lessons.lesson_09.nucleus import TOP_P_FILTER
from minillm.course.lessons.lesson_09.repeating import REPETITION_PENALTY
from minillm.course.lessons.lesson_09.runs import NO_REPEAT_NGRAM
from minillm.course.lessons.lesson_09.tempering import APPLY_TEMPERATURE

EXERCISES = (
    APPLY_TEMPERATURE,
    TOP_K_FILTER,
    TOP_P_FILTER,
    MIN_P_FILTER,
    REPETITION_PENALTY,
    NO_REPEAT_NGRAM,
    BEAM_STEP,
)
