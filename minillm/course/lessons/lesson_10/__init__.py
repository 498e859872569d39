r"""Exercises of lesson 10: caches, what they weigh, what they drop and what they share."""

from minillm.course.lessons.lesson_10.digests import BLOCK_DIGESTS

EXERCISES = (BLOCK_DIGESTS,)
