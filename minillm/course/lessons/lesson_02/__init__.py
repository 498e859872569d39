r"""Exercises of lesson 02: masks, scaled dot-product attention, heads, and attention with several of them."""

from minillm.course.lessons.lesson_02.average import SDPA
from minillm.course.lessons.lesson_02.between_heads import MERGE_HEADS, SPLIT_HEADS
from minillm.course.lessons.lesson_02.causal import CAUSAL_MASK
from minillm.course.lessons.lesson_02.cross import CROSS_ATTENTION
from minillm.course.lessons.lesson_02.multi_head import MULTI_HEAD_ATTENTION
from minillm.course.lessons.lesson_02.prefix import PREFIX_MASK
from minillm.course.lessons.lesson_02.weights import ATTENTION_WEIGHTS

EXERCISES = (
    ATTENTION_WEIGHTS,
    SDPA,
    CAUSAL_MASK,
    PREFIX_MASK,
    SPLIT_HEADS,
    MERGE_HEADS,
    MULTI_HEAD_ATTENTION,
    CROSS_ATTENTION,
)
