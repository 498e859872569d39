r"""Exercises of lesson 06: bends, gates, and experts that a router chooses."""

from minillm.course.lessons.lesson_06.balance import LOAD_BALANCE_LOSS
from minillm.course.lessons.lesson_06.bends import GELU_TANH, SWISH
from minillm.course.lessons.lesson_06.capacity import WITHIN_CAPACITY
from minillm.course.lessons.lesson_06.gates import EQUAL_PARAM_WIDTH, SWIGLU
from minillm.course.lessons.lesson_06.routing import TOP_K_ROUTE

EXERCISES = (GELU_TANH, SWISH, SWIGLU, EQUAL_PARAM_WIDTH, TOP_K_ROUTE, LOAD_BALANCE_LOSS, WITHIN_CAPACITY)
