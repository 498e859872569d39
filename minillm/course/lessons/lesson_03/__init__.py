r"""Exercises of lesson 03: shared key heads, the window, linear attention, latent attention, online softmax, flash."""

from minillm.course.lessons.lesson_03.latent import MLA_ABSORB
from minillm.course.lessons.lesson_03.linear import LINEAR_ATTENTION
from minillm.course.lessons.lesson_03.shared_keys import MEAN_POOL_KV, REPEAT_KV
from minillm.course.lessons.lesson_03.window import SLIDING_WINDOW_MASK

EXERCISES = (REPEAT_KV, MEAN_POOL_KV, MLA_ABSORB, SLIDING_WINDOW_MASK, LINEAR_ATTENTION)
