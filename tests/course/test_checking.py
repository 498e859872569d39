r"""What a learner calls in a notebook, and what is kept under my/."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

from minillm.config import preset
from minillm.course import checking, exercises, mine, shelf
from minillm.course.exercise import Exercise
from minillm.layers import loss, paths, softmax
from minillm.model.gpt import GPT

RIGHT = "def softmax(x, dim=-1):\n    return (x - x.logsumexp(dim, keepdim=True)).exp()\n"
WRONG = "def softmax(x, dim=-1):\n    return x.exp() / x.exp().sum(dim, keepdim=True)\n"
ID = "layers.softmax.softmax"


@pytest.fixture(autouse=True)
def fresh_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "IN_MEMORY", shelf.Shelf())
    monkeypatch.setattr(mine, "_only_here", {})
    monkeypatch.setattr(checking, "_last_seen", {})


@pytest.fixture
def my(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "my"
    (folder / shelf.MARKER).mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder / shelf.MARKER


@pytest.fixture
def notebook() -> Iterator[Callable[[str], Any]]:
    r"""A real IPython shell; calling it runs a cell."""
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    shell.history_manager.enabled = False

    def run(cell: str) -> Any:
        return shell.run_cell(cell, store_history=True).result

    run.shell = shell  # type: ignore[attr-defined]
    run("from minillm.course import check, hint, mine, progress, reset, solution")
    yield run
    InteractiveShell.clear_instance()


def test_passed_function_is_returned(notebook: Any, capsys: pytest.CaptureFixture[str]) -> None:
    notebook(RIGHT)
    function = notebook(f'softmax = check("{ID}")\nsoftmax')
    assert function.__module__ == "__main__"
    assert "softmax: passed\n" in capsys.readouterr().out


def test_named_mistake_is_told_and_the_reference_given(notebook: Any, capsys: pytest.CaptureFixture[str]) -> None:
    notebook(WRONG)
    function = notebook(f'softmax = check("{ID}")\nsoftmax')
    out = capsys.readouterr().out
    assert function is softmax.softmax
    assert "softmax: not yet" in out and "overflows" in out and "course's own" in out
    notebook(f'softmax = check("{ID}")')
    assert "overflows" in capsys.readouterr().out, "the check judges the learner's function again, not what it gave"


def test_what_is_missing_or_broken_is_a_verdict(notebook: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert notebook(f'check("{ID}")') is softmax.softmax
    assert "there is no softmax" in capsys.readouterr().out
    notebook("from minillm.layers import softmax")
    assert notebook(f'check("{ID}")') is softmax.softmax
    assert "is a module" in capsys.readouterr().out
    notebook("from minillm.layers.softmax import softmax")
    notebook(f'check("{ID}")')
    assert "course's own here" in capsys.readouterr().out


def test_syntax_error_is_told_although_an_older_function_is_there(notebook: Any, capsys: Any) -> None:
    notebook(RIGHT)
    notebook("def softmax(x, dim=-1)\n    return x")
    capsys.readouterr()
    function = notebook(f'softmax = check("{ID}")\nsoftmax')
    out = capsys.readouterr().out
    assert function is softmax.softmax
    assert "did not run" in out and "line 1" in out and "def softmax(x, dim=-1)" in out
    notebook(RIGHT)
    notebook(f'softmax = check("{ID}")')
    assert "passed" in capsys.readouterr().out


def test_hints_come_one_by_one(notebook: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (exercise,) = [exercise for exercise in exercises() if exercise.id == ID]
    for number in range(1, len(exercise.hints) + 2):
        notebook(f'hint("{ID}")')
        out = capsys.readouterr().out
        assert sum(text in out for text in exercise.hints) == min(number, len(exercise.hints))


def test_solution_asks_first(notebook: Any, capsys: pytest.CaptureFixture[str]) -> None:
    notebook(f'solution("{ID}")')
    assert "amax" not in capsys.readouterr().out
    notebook(f'solution("{ID}", yes=True)')
    assert "amax" in capsys.readouterr().out


def test_reset_gives_a_fresh_cell_and_files_the_attempt(notebook: Any, my: Path) -> None:
    notebook(RIGHT)
    notebook(f'softmax = check("{ID}")')
    notebook(f'reset("{ID}")')
    assert "raise NotImplementedError" in notebook.shell.rl_next_input
    assert not (my / f"{ID}.py").exists()
    assert "logsumexp" in (my / f"{ID}.1.py").read_text()
    assert mine.own_function(ID) is None
    notebook("def softmax(x):\n    return 'half done'")
    notebook(f'softmax = check("{ID}")')
    notebook(f'reset("{ID}")')
    assert "half done" in (my / f"{ID}.2.py").read_text()


def test_progress_counts(notebook: Any, capsys: pytest.CaptureFixture[str]) -> None:
    notebook(WRONG)
    notebook(f'check("{ID}")')
    notebook(RIGHT)
    notebook(f'check("{ID}")')
    rows = {row[0]: row for row in notebook("progress()").rows}
    points = sum(exercise.points for exercise in exercises() if exercise.lesson == "00")
    assert rows["00"][1:4] == ("1 of 3", f"3 of {points}", 2)
    assert repr(notebook("progress()")).splitlines()[0].split() == ["lesson", "passed", "points", "tries", "hints"]


def test_unknown_exercise_is_named() -> None:
    with pytest.raises(ValueError, match=r"softmax.softmx.*did you mean"):
        checking.check("layers.softmax.softmx")


def test_attempts_are_kept_with_what_they_need_and_never_written_over(notebook: Any, my: Path) -> None:
    notebook("import torch\nimport torch.nn.functional as F\nfrom einops import rearrange\nLARGE = {'limit': 80.0}")
    notebook("KIND = torch.float64\nscores = torch.ones(3)")
    notebook("def largest(x, dim):\n    return torch.amax(x, dim, keepdim=True)")
    notebook(
        "def softmax(x, dim=-1):\n    scores = x - largest(x, dim)\n    assert LARGE['limit'] and KIND\n"
        "    rearrange(F.relu(scores), '... -> ...')\n    return scores.exp() / scores.exp().sum(dim, keepdim=True)"
    )
    notebook(f'softmax = check("{ID}")')
    kept = (my / f"{ID}.py").read_text()
    own = mine.own_function(ID)
    assert own is not None and own is not softmax.softmax
    x = torch.randn(3, 4)
    assert own(x).equal(notebook.shell.user_ns["softmax"](x))
    assert "def largest" in kept and "ones" not in kept
    notebook(RIGHT)
    notebook(f'softmax = check("{ID}")')
    assert (my / f"{ID}.1.py").read_text() == kept
    assert "logsumexp" in (my / f"{ID}.py").read_text()
    notebook(f'softmax = check("{ID}")')
    assert not (my / f"{ID}.2.py").exists()


def test_call_of_another_exercise_goes_through_the_package(notebook: Any, my: Path) -> None:
    notebook(f'softmax = check("{ID}")')
    notebook("def log_softmax(x, dim=-1):\n    softmax(x)\n    return x - x.logsumexp(dim, keepdim=True)")
    other = next(exercise for exercise in exercises() if exercise.name == "log_softmax")
    mine.keep(other.id, notebook.shell.user_ns["log_softmax"])
    with mine.active():
        softmax.log_softmax(torch.ones(3))
    assert mine.table().rows == ((ID, "the course's", 1), (other.id, "yours", 1))


def test_nothing_is_written_outside_of_my(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notebook: Any) -> None:
    folder = tmp_path / "my"  # the right name, but no marker
    folder.mkdir()
    monkeypatch.chdir(folder)
    notebook(RIGHT)
    notebook(f'softmax = check("{ID}")')
    assert list(tmp_path.rglob("*")) == [folder]
    assert mine.own_function(ID) is not None, "within this process it is still in use"


def test_function_that_no_file_can_hold_is_used_and_reported(notebook: Any, my: Path, capsys: Any) -> None:
    notebook("import torch\none = torch.ones(())")
    notebook("def softmax(x, dim=-1):\n    return torch.softmax(x * one.to(x.dtype), dim)")
    notebook(f'softmax = check("{ID}")')
    assert "uses one, a Tensor" in capsys.readouterr().out
    assert mine.own_function(ID) is notebook.shell.user_ns["softmax"]


def test_attempt_that_no_longer_loads_is_reported(my: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (my / f"{ID}.py").write_text("import nothing_of_that_name\n")
    with mine.active():
        assert softmax.softmax(torch.zeros(2)).tolist() == [0.5, 0.5]
    assert "could not be loaded (ModuleNotFoundError" in capsys.readouterr().out
    assert mine.table().rows == ((ID, "the course's", 1),)


def broken(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    raise ArithmeticError("the learner's")


def test_active_switches_counts_and_puts_back() -> None:
    before = {exercise.id: exercise.reference for exercise in exercises()}
    mine.keep(ID, broken)
    with pytest.raises(ArithmeticError), mine.active():
        assert not paths.use_fused()
        loss.cross_entropy(torch.zeros(2, 3), torch.tensor([0, 1]))
        softmax.softmax(torch.zeros(2))
    assert ("layers.softmax.log_softmax", "the course's", 1) in mine.table().rows
    assert (ID, "yours", 1) in mine.table().rows
    assert paths.use_fused()
    assert softmax.softmax is before[ID]


PARTS = (
    "layers.softmax.softmax",
    "layers.pairwise.broadcast_pairwise",
    "layers.masks.causal_mask",
    "layers.sdpa.attention_weights",
    "layers.sdpa.sdpa",
    "layers.heads.split_heads",
    "layers.heads.merge_heads",
    "model.block.block_forward",
    "model.gpt.gpt_forward",
)


@pytest.mark.parametrize("part", PARTS)
def test_gpt_runs_on_the_learners_parts(part: str) -> None:
    model = GPT(preset("tiny", vocab_size=11)).eval()
    token_ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        with mine.active():
            plain = model(token_ids)
        assert all(calls > 0 for name, _, calls in mine.table().rows if name in PARTS)
        assert {name for name, _, _ in mine.table().rows} >= set(PARTS)
        torch.testing.assert_close(model(token_ids), plain, atol=1e-4, rtol=1e-4)
        source = f"def {part.rpartition('.')[2]}(*args, **kwargs):\n    raise ArithmeticError('mine')\n"
        shelf.IN_MEMORY.keep_attempt(part, source)
        with pytest.raises(ArithmeticError, match="mine"), mine.active():
            model(token_ids)
        torch.testing.assert_close(model(token_ids), plain, atol=1e-4, rtol=1e-4)


def test_active_inside_active() -> None:
    with mine.active():
        with mine.active():
            assert one_exercise().reference is softmax.softmax.course_reference  # type: ignore[attr-defined]
            softmax.softmax(torch.zeros(2))
        softmax.softmax(torch.zeros(2))
        assert mine.table().rows == ((ID, "the course's", 2),)
        assert one_exercise().judge(softmax.softmax).passed
    assert not hasattr(softmax.softmax, "course_reference")


def one_exercise() -> Exercise:
    return next(exercise for exercise in exercises() if exercise.id == ID)


def test_progress_file_that_is_broken_is_kept(my: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (my / "progress.json").write_text("{ half")
    checking.hint(ID)
    assert (my / "progress.json.broken").read_text() == "{ half"
    assert "could not be read" in capsys.readouterr().out
