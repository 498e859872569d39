r"""Definitions are found in C++ and cut out whole."""

import re

import pytest

from minillm.course.scenes.kernel_reading import kernel_part, source_part

SOURCE = """\
#include <vector>
using Rule = int (*)(int step);
struct Pair { int a, b; };  // short
// Adds.
// Twice.
static int step(int x) {
    for (;;) { x += 1; }
    return x;
}
struct Box {
    int step(int y) { return y; }
};
int other(int x) { return step(x); }
"""


def test_whole_with_the_comment_above():
    assert source_part(SOURCE, "step") == "\n".join(SOURCE.splitlines()[3:9])
    assert source_part(SOURCE, "Pair") == "struct Pair { int a, b; };  // short"
    assert source_part(SOURCE, "Box").splitlines()[-1] == "};"
    assert source_part(SOURCE, "st*p") == source_part(SOURCE, "step")
    assert source_part(SOURCE, "other") == SOURCE.splitlines()[-1]


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="nothing"):
        source_part(SOURCE, "nothing")


@pytest.mark.parametrize("name", ["*_portable", "product", "phase", "step"])
def test_what_the_lesson_reads_is_there_and_fits_on_a_screen(name):
    part = kernel_part(name).splitlines()
    assert not re.search(r"0x[0-9a-f]{6}", "\n".join(part))  # looks like an object's address in a notebook
    assert part[-1] in ("}", "};") and 2 < len(part) < 60
