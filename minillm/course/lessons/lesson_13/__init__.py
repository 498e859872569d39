r"""Exercises of lesson 13: low-rank changes, a code book for frozen weights, prompts and prefixes; and a bug."""

from minillm.course.lessons.lesson_13.bypass import LORA_FORWARD
from minillm.course.lessons.lesson_13.merging import LORA_MERGE
from minillm.course.lessons.lesson_13.normal_codes import NF4_QUANTIZE
from minillm.course.lessons.lesson_13.prefixing import PREFIX_KV
from minillm.course.lessons.lesson_13.prompting import PROMPT_CONCAT
from minillm.course.lessons.lesson_13.starting import LORA_INIT
from minillm.course.lessons.lesson_13.training_through import ADAPTED_LINEAR

EXERCISES = (LORA_INIT, LORA_FORWARD, LORA_MERGE, ADAPTED_LINEAR, NF4_QUANTIZE, PROMPT_CONCAT, PREFIX_KV)
