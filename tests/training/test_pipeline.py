r"""A pipeline against the whole model; its timetable against its rules and the formula."""

import pytest
import torch

from minillm.config import Rope, T5Bias
from minillm.training import pipeline
from minillm.training import pipeline_schedule as plan
from minillm.training.pipeline_schedule import Slot
from minillm.training.wires import run_ranks
from tests.training.parallel_cases import LENGTH, parallel_config, uneven_batch, whole_loss, whole_model


@pytest.mark.parametrize("order", pipeline.SCHEDULES)
@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": False, "position": Rope()}], ids=["tied", "untied"])
def test_stages_together_equal_the_whole_model(order, changes, fresh_seed):
    model, weights = whole_model(fresh_seed, **changes)
    batch = uneven_batch(fresh_seed)
    batch[1][2] = -100  # with 6 micro-batches, one has nothing to learn
    loss = whole_loss(model, *batch)
    loss.backward()
    want = {name: parameter.grad for name, parameter in model.named_parameters()}
    for n_stages, n_micro in ((1, 2), (2, 4), (3, 6), (4, 1)):
        found = run_ranks(pipeline.pipeline_gradients, n_stages, model.config, weights, *batch, n_micro, order)
        for stage, work in enumerate(found):
            assert work.loss == pytest.approx(loss.item(), rel=1e-5)
            for name, grad in work.gradients.items():
                torch.testing.assert_close(grad, want[name], rtol=1e-3, atol=1e-6)
            stream = 6 * LENGTH * 16 * 4
            assert work.sent.get("activations", 0) == (stream if stage < n_stages - 1 else 0)
            assert work.sent.get("gradients", 0) == (stream if stage > 0 else 0)
            assert work.most_kept == (n_micro if order == "gpipe" else min(n_stages - stage, n_micro))
        owners = [{name for name in work.gradients if name != "tok_emb.weight"} for work in found]
        assert sum(map(len, owners)) == len(set(want) - {"tok_emb.weight"}), "each parameter stands on one stage"


def orders(kind, n_stages, n_micro):
    if kind == "gpipe":
        return [plan.gpipe_order(n_micro)] * n_stages
    return [plan.one_f_one_b_order(stage, n_stages, n_micro) for stage in range(n_stages)]


@pytest.mark.parametrize("kind", pipeline.SCHEDULES)
def test_timetables_keep_the_rules_and_the_formula(kind):
    for n_stages in (1, 2, 4, 5):
        for n_micro in (1, 2, 4, 9, 32):
            rows = plan.timetable(orders(kind, n_stages, n_micro))
            ticks = [{slot: tick for tick, slot in enumerate(row) if slot} for row in rows]
            assert all(len(tick) == 2 * n_micro for tick in ticks)
            for stage, tick in enumerate(ticks):
                for micro in range(n_micro):
                    forward, backward = Slot("F", micro), Slot("B", micro)
                    assert tick[forward] < tick[backward]
                    assert stage == 0 or ticks[stage - 1][forward] < tick[forward]
                    assert stage == n_stages - 1 or ticks[stage + 1][backward] < tick[backward]
            assert plan.idle_share(rows) == pytest.approx(plan.bubble_share(n_stages, n_micro), abs=1e-12)
            kept = [plan.most_in_flight(row) for row in rows]
            assert kept == [n_micro if kind == "gpipe" else min(n_stages - s, n_micro) for s in range(n_stages)]


def test_known_bubbles_and_bad_input():
    assert round(plan.bubble_share(4, 4), 3) == 0.429 and round(plan.bubble_share(4, 32), 3) == 0.086
    assert plan.bubble_share(1, 7) == 0
    with pytest.raises(ValueError, match="n_stages=0"):
        plan.bubble_share(0, 1)
    with pytest.raises(ValueError, match="nobody can go on"):
        plan.timetable([[Slot("F", 0), Slot("B", 0)], [Slot("B", 0), Slot("F", 0)]])
    assert [list(pipeline.stage_blocks(5, stage, 3)) for stage in range(3)] == [[0], [1, 2], [3, 4]]
    with pytest.raises(ValueError, match="n_stages=6: at most one stage a block"):
        pipeline.stage_blocks(5, 0, 6)
    config, (token_ids, targets) = parallel_config(), uneven_batch(0)
    for more, words in (((7,), "n_micro_batches=7: use 1 to 6"), ((2, "zigzag"), "order='zigzag': use one of")):
        with pytest.raises(ValueError, match=words):
            run_ranks(pipeline.pipeline_gradients, 1, config, {}, token_ids, targets, *more)
    with pytest.raises(ValueError, match="shared by the blocks of all stages"):
        run_ranks(pipeline.pipeline_gradients, 1, parallel_config(position=T5Bias()), {}, token_ids, targets, 2)
