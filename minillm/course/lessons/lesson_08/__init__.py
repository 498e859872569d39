r"""Exercises of lesson 08: the optimizer, its schedule, what makes a large batch fit, and training on several ranks."""

from minillm.course.lessons.lesson_08.accumulating import ACCUMULATE
from minillm.course.lessons.lesson_08.adamw import ADAMW_STEP
from minillm.course.lessons.lesson_08.clipping import CLIP_BY_NORM
from minillm.course.lessons.lesson_08.cosine import COSINE_LR
from minillm.course.lessons.lesson_08.scaling import LOSS_SCALE_STEP
from minillm.course.lessons.lesson_08.shards import ZERO1_SHARD
from minillm.course.lessons.lesson_08.splitting import MLP_SHARD
from minillm.course.lessons.lesson_08.unscaling import UNSCALE_AND_CLIP

EXERCISES = (ADAMW_STEP, COSINE_LR, CLIP_BY_NORM, ACCUMULATE, LOSS_SCALE_STEP, UNSCALE_AND_CLIP, ZERO1_SHARD, MLP_SHARD)
