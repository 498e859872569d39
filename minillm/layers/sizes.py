r"""One way to refuse a size below 1."""


def require_at_least_one(**sizes: int) -> None:
    r"""Refuse sizes below 1.

    Args:
        sizes: by name.
    Raises:
        ValueError: naming the first that is too small.
    Reason: every cache refuses the same sizes in the same words.
    Lesson: 10.
    """
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name}={value}: use at least 1")
