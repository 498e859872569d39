r"""Exercises of lesson 04: position vectors, rotations, and biases by distance."""

from minillm.course.lessons.lesson_04.biases import ALIBI_BIAS
from minillm.course.lessons.lesson_04.buckets import T5_BUCKET
from minillm.course.lessons.lesson_04.relative import SHAW_ATTENTION
from minillm.course.lessons.lesson_04.rotations import APPLY_ROPE, ROPE_ANGLES
from minillm.course.lessons.lesson_04.sinusoids import SINUSOIDAL
from minillm.course.lessons.lesson_04.stretching import NTK_BASE, YARN_INV_FREQ

EXERCISES = (SINUSOIDAL, SHAW_ATTENTION, T5_BUCKET, ALIBI_BIAS, ROPE_ANGLES, APPLY_ROPE, NTK_BASE, YARN_INV_FREQ)
