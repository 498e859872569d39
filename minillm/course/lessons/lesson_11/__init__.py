r"""Exercises of lesson 11: weights and activations in few bits, and how fast a machine can be."""

from minillm.course.lessons.lesson_11.coding_groups import INT4_GROUPS
from minillm.course.lessons.lesson_11.roof import ROOFLINE_TIME
from minillm.course.lessons.lesson_11.rounding_rows import QUANTIZE_ROWS
from minillm.course.lessons.lesson_11.scaled_products import INT8_LINEAR
from minillm.course.lessons.lesson_11.splitting_columns import OUTLIER_SPLIT
from minillm.course.lessons.lesson_11.wide_sums import INT8_MATMUL

EXERCISES = (QUANTIZE_ROWS, INT8_LINEAR, INT4_GROUPS, OUTLIER_SPLIT, ROOFLINE_TIME, INT8_MATMUL)
