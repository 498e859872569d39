r"""Exercises of lesson 16: a talk as text, how surprised and how sure a model is, what a text is about."""

from minillm.course.lessons.lesson_16.bits import BITS_PER_BYTE
from minillm.course.lessons.lesson_16.continuing import CONTINUATION_LOG_PROBS
from minillm.course.lessons.lesson_16.pooling import MEAN_POOL
from minillm.course.lessons.lesson_16.searching import BM25_SCORES
from minillm.course.lessons.lesson_16.surprise import PERPLEXITY
from minillm.course.lessons.lesson_16.talking import APPLY_CHAT_TEMPLATE
from minillm.course.lessons.lesson_16.trusting import EXPECTED_CALIBRATION_ERROR

EXERCISES = (
    APPLY_CHAT_TEMPLATE,
    PERPLEXITY,
    BITS_PER_BYTE,
    CONTINUATION_LOG_PROBS,
    EXPECTED_CALIBRATION_ERROR,
    MEAN_POOL,
    BM25_SCORES,
)
