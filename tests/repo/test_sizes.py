r"""A file is one idea, and a function fits on a screen."""

from tests.repo.project import functions, place, python_files, require_none, tree_of

FILE_LINES = 300
FUNCTION_LINES = 60


def test_files_are_short():
    paths = python_files("minillm", "tests", "figures")
    lengths = ((path, len(path.read_text(encoding="utf-8").splitlines())) for path in paths)
    require_none(
        (f"{place(path)}: {length} lines" for path, length in lengths if length > FILE_LINES),
        f"a file has at most {FILE_LINES} lines: split it where its idea has two halves",
    )


def test_functions_are_short():
    violations = []
    for path in python_files("minillm", "tests", "figures", "notebooks/src"):
        for function in functions(tree_of(path)):
            length = function.end_lineno - function.lineno + 1
            if length > FUNCTION_LINES:
                violations.append(f"{place(path, function)}: {function.name} has {length} lines")
    require_none(violations, f"a function has at most {FUNCTION_LINES} lines, its docstring included")
