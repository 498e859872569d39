r"""One way to refuse a bad value."""

from typing import Any


def require(ok: bool, argument: str, value: Any, fix: str) -> None:
    r"""Refuse a value, saying which, and what to give instead.

    Args:
        ok: whether the value is good.
        argument: the name of what was given.
        value: what was given.
        fix: what to give instead.
    Raises:
        ValueError: if it is not ok.
    Lesson: 07.
    """
    if not ok:
        raise ValueError(f"{argument}={value!r}: {fix}")
