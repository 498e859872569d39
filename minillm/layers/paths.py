r"""One switch: may a part use torch's fused kernel, or must it take the plain path that the lessons build?"""

from collections.abc import Iterator
from contextlib import contextmanager

_fused = True


def use_fused() -> bool:
    r"""Whether parts may call their fused twin in `layers.fused`. Lesson: 02."""
    return _fused


@contextmanager
def plain_path() -> Iterator[None]:
    r"""Inside this context every part runs the plain function of its lesson, never a fused kernel.

    The learner's own functions are switched in here, and tests compare both paths. Lesson: 02.
    """
    global _fused
    before, _fused = _fused, False
    try:
        yield
    finally:
        _fused = before
