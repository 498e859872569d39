r"""What the pictures of ranks show is what the code does."""

import torch

from minillm.course.plots import png_bytes
from minillm.course.scenes.parallel_pictures import (
    PART_COLOURS,
    kept_picture,
    reduce_scatter_picture,
    split_mlp_picture,
    timetable_picture,
    travelling_shares,
)
from minillm.training import collectives, pipeline_schedule, zero
from minillm.training.wires import run_ranks


def test_the_shares_that_are_drawn_are_those_that_travel():
    n_ranks = 4
    handed_on: dict[int, list] = {}

    def work(wire):
        x = torch.zeros(n_ranks, n_ranks)  # share s of rank r: a one at place r
        x[:, wire.rank] = 1
        plain, seen = wire.pass_on, handed_on.setdefault(wire.rank, [])

        def watched(part):
            seen.append(part.nonzero().flatten().tolist())
            return plain(part)

        wire.pass_on = watched
        return collectives.reduce_scatter(x, wire).nonzero().flatten().tolist()

    assert run_ranks(work, n_ranks) == [[0, 1, 2, 3]] * n_ranks
    rows = travelling_shares(n_ranks)
    for rank in range(n_ranks):
        assert handed_on[rank] == [sorted(row[rank][1]) for row in rows[:-1]]
        assert rows[-1][rank] == (rank, [(rank + 1 + i) % n_ranks for i in range(n_ranks)])


def test_pictures_are_drawn():
    ring = reduce_scatter_picture(3)
    assert [text.get_text() for text in ring.axes[0].texts][-1] == "share 2:\n0 + 1 + 2"
    kept = kept_picture({f"stage {s}": zero.zero_bytes(100, 4, s) for s in zero.STAGES}, "bytes", (1000, "a device"))
    assert {text.get_text() for text in kept.axes[0].get_legend().get_texts()} == {*PART_COLOURS, "a device"}
    heights = [text.get_text() for text in kept.axes[0].texts]
    assert heights == ["1.6e+03", "700", "550", "400"]
    rows = pipeline_schedule.timetable([pipeline_schedule.gpipe_order(3)] * 2)
    plan = timetable_picture({"GPipe": rows, "again": rows})
    assert [text.get_text() for text in plan.axes[0].texts] == [
        f"{slot.kind}{slot.micro_batch}" for row in rows for slot in row if slot
    ]
    figures = (ring, kept, plan, split_mlp_picture(2))
    assert all(png_bytes(figure).startswith(b"\x89PNG") for figure in figures)
