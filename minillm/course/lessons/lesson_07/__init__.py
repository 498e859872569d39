r"""Exercises of lesson 07: the block, the model, its loss, its fresh weights, its size; and masks of other families."""

from minillm.course.lessons.lesson_07.block import BLOCK_FORWARD
from minillm.course.lessons.lesson_07.counting import BLOCK_PARAMETERS, COUNT_PARAMETERS
from minillm.course.lessons.lesson_07.cross_entropy import CROSS_ENTROPY
from minillm.course.lessons.lesson_07.flops import FLOPS_PER_TOKEN
from minillm.course.lessons.lesson_07.fresh_weights import INIT_WEIGHTS
from minillm.course.lessons.lesson_07.order import PERMUTATION_MASK
from minillm.course.lessons.lesson_07.shifting import SHIFT_ROWS
from minillm.course.lessons.lesson_07.whole_model import GPT_FORWARD

EXERCISES = (
    BLOCK_FORWARD,
    GPT_FORWARD,
    CROSS_ENTROPY,
    INIT_WEIGHTS,
    BLOCK_PARAMETERS,
    COUNT_PARAMETERS,
    FLOPS_PER_TOKEN,
    SHIFT_ROWS,
    PERMUTATION_MASK,
)
