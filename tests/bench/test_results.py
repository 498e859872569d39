r"""Tables survive being written and read, say what made them, and the stored ones are whole."""

import json
import random

import pytest

from minillm.bench import results
from minillm.bench.variants.harness import Row


def test_a_table_survives_being_written_and_read(tmp_path, fresh_seed):
    draw = random.Random(fresh_seed)
    rows = [
        Row(f'row "{i}"', {"loss": [draw.random() for _ in "abc"], "counts": [[draw.randrange(9)] for _ in "abc"]})
        for i in range(4)
    ]
    made = results.make_table(rows, [0, 1, 2], "python -m minillm bench x")
    path = results.save_table("x", made, tmp_path / "deep" / "x.json")
    back = results.load_table("x", path)
    assert list(back) == ["command", "date", "torch", "machine", "seeds", "rows"]
    assert back["seeds"] == [0, 1, 2] and back["command"] == "python -m minillm bench x"
    for row, read in zip(rows, back["rows"], strict=True):
        assert read["name"] == row.name and read["values"]["counts"] == row.values["counts"]
        assert read["values"]["loss"] == pytest.approx(row.values["loss"], abs=1e-5)
    assert 'loss' in results.table_text(back) and "counts" not in results.table_text(back)


def test_an_unknown_table_names_the_known_ones():
    with pytest.raises(ValueError, match="name='nothing'.*stored are"):
        results.load_table("nothing")


@pytest.mark.parametrize("path", sorted(results.FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_stored_tables_are_whole(path):
    table = json.loads(path.read_text())
    assert table["command"].startswith(f"python -m minillm bench {path.stem} --seeds {len(table['seeds'])}")
    assert len(table["seeds"]) >= 3, "judge nothing by fewer than three seeds"
    for row in table["rows"]:
        for measure, values in row["values"].items():
            assert len(values) == len(table["seeds"]), f"{row['name']}: {measure}"
