r"""Exercises of lesson 10: caches, what they weigh, what they drop and what they share."""

from minillm.course.lessons.lesson_10.appending import CACHE_APPEND
from minillm.course.lessons.lesson_10.chunks import MASK_FOR_CHUNK
from minillm.course.lessons.lesson_10.digests import BLOCK_DIGESTS
from minillm.course.lessons.lesson_10.evicting import EVICT_WITH_SINKS
from minillm.course.lessons.lesson_10.tables import BLOCK_TABLE_APPEND
from minillm.course.lessons.lesson_10.weighing import KV_BYTES

EXERCISES = (CACHE_APPEND, MASK_FOR_CHUNK, KV_BYTES, BLOCK_TABLE_APPEND, EVICT_WITH_SINKS, BLOCK_DIGESTS)
