r"""Patterns of JSON values: any fixed shape of finite depth is a regular language."""

import json
import re
from collections.abc import Mapping, Sequence

STRING = r'"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*"'
INTEGER = r"-?(?:0|[1-9]\d*)"
NUMBER = INTEGER + r"(?:\.\d+)?(?:[eE][+-]?\d+)?"
BOOLEAN = "(?:true|false)"
NULL = "null"


def json_choice(values: Sequence[str | int | float | bool | None]) -> str:
    r"""A pattern for one of some values.

    Args:
        values: at least one.
    Returns: a pattern for `compile_regex`.
    Raises:
        ValueError: if there are none.
    Lesson: 09.
    """
    if not values:
        raise ValueError("values is empty: give at least one to choose from")
    return "(?:" + "|".join(re.escape(json.dumps(value, ensure_ascii=False)) for value in values) + ")"


def json_array(item: str, least: int = 0, most: int | None = None) -> str:
    r"""A pattern for a list whose items all match one pattern.

    Args:
        item: pattern of an item.
        least: items at least.
        most: items at most; None = without limit.
    Returns: a pattern for `compile_regex`; items are separated by a comma and a space.
    Raises:
        ValueError: if least and most do not fit.
    Lesson: 09.
    """
    if least < 0 or most is not None and (most < least or most == 0):
        raise ValueError(f"least={least}, most={most}: use 0 <= least <= most and most at least 1")
    rest = f"(?:, (?:{item})){{{max(least - 1, 0)},{'' if most is None else most - 1}}}"
    items = f"(?:{item}){rest}"
    return rf"\[{items}\]" if least else rf"\[(?:{items})?\]"


def json_object(fields: Mapping[str, str]) -> str:
    r"""A pattern for an object with given fields, in the order given.

    Args:
        fields: from name to the pattern of its value, which may be an object or array again.
    Returns: a pattern for `compile_regex`, in the spacing of json.dumps: {"name": value, "name": value}.
    Lesson: 09.
    """
    pairs = (f"{re.escape(json.dumps(name, ensure_ascii=False))}: (?:{value})" for name, value in fields.items())
    return r"\{" + ", ".join(pairs) + r"\}"
