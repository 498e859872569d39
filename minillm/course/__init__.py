r"""The course: exercises and their checks, the learner's own parts, questions, pictures, and the lesson builder."""

from minillm.course import mine
from minillm.course.catalogue import exercises
from minillm.course.checking import check, hint, progress, reset, solution

__all__ = ["check", "exercises", "hint", "mine", "progress", "reset", "solution"]
