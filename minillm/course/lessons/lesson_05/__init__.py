r"""Exercises of lesson 05: LayerNorm, RMSNorm, BatchNorm, residual branches, DeepNorm, a norm that looks ahead."""

from minillm.course.lessons.lesson_05.branches import PRE_NORM_BLOCK
from minillm.course.lessons.lesson_05.constants import DEEPNORM_CONSTANTS
from minillm.course.lessons.lesson_05.groups import GROUP_NORM
from minillm.course.lessons.lesson_05.layer import LAYER_NORM
from minillm.course.lessons.lesson_05.remembered import BATCH_NORM_EVAL
from minillm.course.lessons.lesson_05.root_mean_square import RMS_NORM

EXERCISES = (LAYER_NORM, RMS_NORM, BATCH_NORM_EVAL, PRE_NORM_BLOCK, DEEPNORM_CONSTANTS, GROUP_NORM)
