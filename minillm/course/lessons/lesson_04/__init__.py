r"""Exercises of lesson 04: position vectors, rotations, and biases by distance."""

from minillm.course.lessons.lesson_04.biases import ALIBI_BIAS
from minillm.course.lessons.lesson_04.rotations import APPLY_ROPE, ROPE_ANGLES
from minillm.course.lessons.lesson_04.sinusoids import SINUSOIDAL

EXERCISES = (SINUSOIDAL, ROPE_ANGLES, APPLY_ROPE, ALIBI_BIAS)
