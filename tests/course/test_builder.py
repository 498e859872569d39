r"""The builder, proved on a tiny lesson in a folder of its own."""

import ast
import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from minillm.course.builder import build
from minillm.course.builder.expand import expand_lesson
from minillm.course.builder.lesson_file import read_lesson
from minillm.course.builder.outputs import complaints, same_run, strip_outputs, tidy_outputs
from minillm.course.builder.running import GIGABYTE, Cost, budget_of, run_notebook

LESSON = '''# %% [markdown]
# # Tiny
#
# ## The start

# %%
import torch

from minillm.course import check, mine

# %% exercise="layers.softmax.softmax"

# %% exercise="layers.softmax.log_softmax"

# %% [markdown]
# ## Where they are used

# %% name="they_sum_to_one" tags=["compare"]
total = softmax(torch.tensor([1.0, 2.0, 3.0])).sum()
assert abs(total - 1) < 1e-6
print(f"sum {total:.3f}")

# %% name="with_mine"
with mine.active():
    log_softmax(torch.zeros(3))

# %% variant="solved"
print("solved only")

# %% [markdown] interview="00"
'''
BANK = """
- id: sums
  lesson: "00"
  question: {en: 'What do they sum to?', zh: '和是多少？'}
  short: {en: To one., zh: 等于一。}
  full: {en: 'To one, by construction.', zh: 按定义等于一。}
  formula: \\sum_i p_i = 1
  source: [Goodfellow et al. 2016]
  myth: null
  follow_ups: [{en: 'And if all are -inf?', zh: '全是负无穷呢？'}]
  difficulty: 1
  proof: {notebook: 00_tiny, cell: they_sum_to_one}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "notebooks/src").mkdir(parents=True)
    (tmp_path / "bank").mkdir()
    (tmp_path / "bank/00_tiny.yaml").write_text(BANK, encoding="utf-8")
    write(tmp_path, LESSON)
    return tmp_path


def write(root: Path, text: str) -> None:
    (root / "notebooks/src/00_tiny.py").write_text(text, encoding="utf-8")


def expand(root: Path, variant: str) -> NotebookNode:
    return expand_lesson(root, read_lesson(root, "00_tiny"), variant, root / "bank")


def by_id(notebook: NotebookNode) -> dict[str, NotebookNode]:
    return {cell.id: cell for cell in notebook.cells}


def test_exercise_becomes_task_stub_and_check(root: Path) -> None:
    cells = by_id(expand(root, "blank"))
    task, attempt, checking = (cells[f"softmax-{role}"] for role in ("task", "attempt", "check"))
    assert "difficulty ●○○" in task.source and "10 minutes" in task.source
    assert task.source.count("<details>") == task.source.count("</details>") == 3
    assert attempt.source.startswith("def softmax(x, dim=-1):")
    assert attempt.source.endswith("raise NotImplementedError")
    assert "any shape, float" in attempt.source
    assert attempt.metadata["tags"] == ["raises-exception"]
    assert attempt.metadata["exercise"] == {"id": "layers.softmax.softmax", "role": "attempt", "points": 3, "seed": 12}
    assert checking.source == 'softmax = check("layers.softmax.softmax")'
    assert checking.metadata["tags"] == ["nbval-check-output"]


def test_solved_variant_holds_the_reference(root: Path) -> None:
    cells = by_id(expand(root, "solved"))
    body = ast.parse(cells["softmax-attempt"].source).body[-1].body[1:]
    assert ast.unparse(body[0]) == "exp = (x - x.amax(dim=dim, keepdim=True)).exp()"
    assert any("solved only" in cell.source for cell in cells.values())
    assert not any("solved only" in cell.source for cell in expand(root, "blank").cells)


def test_question_is_folded_and_links_to_its_proof(root: Path) -> None:
    text = by_id(expand(root, "blank"))["interview-sums"].source
    assert text.startswith("<details>\n<summary><b>What do they sum to?</b>") and text.endswith("</details>")
    assert "[Where they are used](#Where-they-are-used), cell `they_sum_to_one`" in text
    assert "等于一" in text and "$$\n\\sum_i p_i = 1\n$$" in text


def test_rebuild_changes_no_ids(root: Path) -> None:
    first, second = expand(root, "blank"), expand(root, "blank")
    assert [cell.id for cell in first.cells] == [cell.id for cell in second.cells]
    assert len({cell.id for cell in first.cells}) == len(first.cells)
    assert first.metadata.kernelspec.name == "python3"
    assert by_id(first)["they_sum_to_one"].metadata == {"name": "they_sum_to_one", "tags": ["nbval-check-output"]}


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ('# %% exercize="layers.softmax.softmax"\n', "exercize"),
        ('# %% exercise="layers.softmax.softmax"\nx = 1\n', "leave it empty"),
        ('# %% name="they_sum_to_one"\nx = 1\n', "each name once"),
        ('# %% name="a b"\nx = 1\n', "letters"),
        ('# %% variant="both"\nx = 1\n', "variant"),
        ('# %% exercise="layers.softmax.nothing"\n', "there is no exercise"),
        ('# %% exercise="layers.softmax.softmax"\n', "each exercise once"),
        ('# %% [markdown] interview="98"\n', "no questions of lesson '98'"),
    ],
)
def test_wrong_directive_is_named(root: Path, cell: str, words: str) -> None:
    write(root, LESSON + "\n" + cell)
    with pytest.raises(ValueError, match=words):
        expand(root, "blank")


def test_proof_that_is_not_there_is_named(root: Path) -> None:
    write(root, LESSON.replace("they_sum_to_one", "another"))
    with pytest.raises(ValueError, match="sums: 00_tiny has no cell named 'they_sum_to_one'"):
        expand(root, "blank")


def run(root: Path, variant: str) -> NotebookNode:
    notebook = expand(root, variant)
    cost = run_notebook(notebook, root / "notebooks", "tiny")
    assert cost.memory > 50e6
    return notebook


def outputs(notebook: NotebookNode) -> dict[str, str]:
    return {cell.id: "".join(o.get("text", "") for o in cell.outputs) for cell in notebook.cells if "outputs" in cell}


def test_built_lesson_runs_in_both_variants(root: Path) -> None:
    blank, solved = outputs(run(root, "blank")), outputs(run(root, "solved"))
    assert blank["softmax-check"].startswith("softmax: not attempted yet. The lesson goes on with the course's own")
    assert solved["softmax-check"] == "softmax: passed\n"
    assert solved["log_softmax-check"] == "log_softmax: passed\n"
    assert blank["they_sum_to_one"] == solved["they_sum_to_one"] == "sum 1.000\n"


def test_syntax_error_in_every_exercise_still_reaches_the_last_cell(root: Path) -> None:
    notebook = expand(root, "blank")
    for cell in notebook.cells:
        if cell.metadata.get("exercise", {}).get("role") == "attempt":
            cell.source = cell.source.replace("):", ")")
    run_notebook(notebook, root / "notebooks", "broken")
    seen = outputs(notebook)
    assert "not yet" in seen["softmax-check"] and "did not run" in seen["log_softmax-check"]
    assert seen["they_sum_to_one"] == "sum 1.000\n"


def test_what_must_not_be_published_stops_the_build(root: Path) -> None:
    bad = {
        "import os\nprint(os.getcwd())": "path of this machine",
        "print(object())": "address",
        "import warnings\nwarnings.warn('old', stacklevel=1)": "stderr",
        "import matplotlib.pyplot as plt\nplt.plot([1, 2]);": "alt text",
    }
    write(root, "".join(f"# %%\n{code}\n" for code in ["print('this may')", *bad]))
    notebook = run(root, "blank")
    found = complaints(notebook, root)
    for number, words in enumerate(bad.values(), 2):
        assert any(line.startswith(f"cell {number} ") and words in line for line in found), words
    assert not any(line.startswith("cell 1 ") for line in found)


def test_progress_bar_is_no_complaint(root: Path) -> None:
    write(root, "# %%\nfrom tqdm import tqdm\n\nfor _ in tqdm(range(3), unit='step'):\n    pass\n")
    assert complaints(run(root, "blank"), root) == []


PLAIN = "# %% [markdown]\n# # Plain\n\n# %%\nimport time\n\nprint(f'{time.perf_counter():.3f} s')\n"


def test_build_leaves_alone_what_only_took_another_time(root: Path, capsys: pytest.CaptureFixture) -> None:
    write(root, PLAIN)
    assert build(["00_tiny"], root=root) == 0
    files = [root / "notebooks/00_tiny.ipynb", root / "solutions/00_tiny.ipynb"]
    before = [file.read_bytes() for file in files]
    assert build(root=root) == 0
    assert [file.read_bytes() for file in files] == before
    out = capsys.readouterr().out
    assert out.count("written") == 2 and out.count("unchanged") == 2 and "of 2 GB" in out
    write(root, PLAIN.replace("Plain", "Plainer"))
    assert build(root=root, execute=False) == 0
    assert [file.read_bytes() for file in files] != before
    old, new = nbformat.reads(before[0].decode(), 4), nbformat.read(files[0], 4)
    assert old.cells[1].outputs == new.cells[1].outputs
    write(root, PLAIN.replace("perf_counter", "monotonic"))
    assert build(root=root, execute=False) == 1
    assert not same_run(old, expand(root, "blank"))
    assert strip_outputs(new) != strip_outputs(old)
    shutil.rmtree(root / "build")


def test_text_that_came_in_pieces_is_joined() -> None:
    def text(words: str, name: str = "stdout") -> NotebookNode:
        return nbformat.v4.new_output("stream", name=name, text=words)

    picture = nbformat.v4.new_output("display_data", {"text/plain": "a picture"})
    pieces = [text("one"), text(" and\n"), text("two\n"), picture, text("three\n")]
    pieces += [text("  5%|", "stderr"), text("four")]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("pass", outputs=pieces)])
    tidy_outputs(notebook)
    found = [output.get("text", "-") for output in notebook.cells[0].outputs]
    assert found == ["one and\ntwo\n", "-", "three\n", "  5%|", "four"]


def test_blank_lines_between_cells_mean_nothing(root: Path) -> None:
    write(root, "# %% name=\"one\"\ndef f():\n    return 1\n\n\n\n# %% name=\"two\"\nf()\n")
    assert [cell.metadata for cell in expand(root, "blank").cells] == [{"name": "one"}, {"name": "two"}]


def test_build_reports_a_wrong_source(root: Path, capsys: pytest.CaptureFixture) -> None:
    write(root, '# %% exercize="x"\n')
    assert build(root=root) == 1
    assert "exercize" in capsys.readouterr().out


def test_build_reports_a_failing_cell(root: Path, capsys: pytest.CaptureFixture) -> None:
    write(root, "# %%\n1 / 0\n")
    assert build(root=root) == 1
    assert "ZeroDivisionError" in capsys.readouterr().out
    assert not (root / "notebooks/00_tiny.ipynb").exists()


def test_budgets() -> None:
    assert budget_of("02").allows(Cost(59, GIGABYTE)) and not budget_of("02").allows(Cost(61, GIGABYTE))
    assert budget_of("00").allows(Cost(119, GIGABYTE)) and not budget_of("00").allows(Cost(1, 3 * GIGABYTE))
    assert budget_of("16").allows(Cost(1, 3 * GIGABYTE))
