r"""Exercises of lesson 03: shared heads, latents, windows, flash, blocks, the ring; linear attention."""

from minillm.course.lessons.lesson_03.flash import FLASH_FORWARD
from minillm.course.lessons.lesson_03.latent import MLA_ABSORB
from minillm.course.lessons.lesson_03.linear import LINEAR_ATTENTION
from minillm.course.lessons.lesson_03.merging import MERGE_ATTENTION
from minillm.course.lessons.lesson_03.online_softmax import ONLINE_SOFTMAX
from minillm.course.lessons.lesson_03.ring import RING_ATTENTION
from minillm.course.lessons.lesson_03.shared_keys import MEAN_POOL_KV, REPEAT_KV
from minillm.course.lessons.lesson_03.window import SLIDING_WINDOW_MASK

EXERCISES = (
    REPEAT_KV,
    MEAN_POOL_KV,
    MLA_ABSORB,
    SLIDING_WINDOW_MASK,
    ONLINE_SOFTMAX,
    FLASH_FORWARD,
    MERGE_ATTENTION,
    RING_ATTENTION,
    LINEAR_ATTENTION,
)
