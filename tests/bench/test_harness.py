r"""The harness: same text and same batches for everyone, and a loss that a loop confirms."""

from dataclasses import replace

import pytest
import torch

from minillm.bench.variants import harness
from minillm.config import Alibi, Init, Learned, Mlp, NoPosition, Rope
from minillm.model.gpt import GPT
from minillm.text import corpora

SMALL = replace(
    harness.BASE, d_model=16, n_layers=1, n_heads=2, n_kv_heads=2, head_dim=8, ffn=Mlp(16), max_seq_len=32,
    init=Init(0.5, 0.5, "plain"))  # so that fresh attention does something


def test_the_text_is_the_documentation_in_a_fixed_alphabet():
    assert len(harness.ALPHABET) == len(set(harness.ALPHABET)) == 96 == harness.BASE.vocab_size
    text = corpora.python_docs()
    ids = torch.cat([harness.text_ids("train"), harness.text_ids("validation")])
    back = "".join(harness.ALPHABET[i] for i in ids.tolist())
    assert len(back) == len(text)
    differs = [(theirs, ours) for theirs, ours in zip(text, back, strict=True) if theirs != ours]
    assert all(ours == "?" and theirs not in harness.ALPHABET for theirs, ours in differs)
    assert len(differs) < 0.002 * len(text)
    with pytest.raises(ValueError, match="part='test'"):
        harness.text_ids("test")


def test_windows_lie_side_by_side():
    ids = harness.text_ids("validation")
    windows = harness.text_windows("validation", 99)
    assert windows.shape == (len(ids) // 100, 100) and torch.equal(windows.flatten(), ids[: windows.numel()])
    few = harness.text_windows("validation", 99, 7)
    rows = {tuple(row) for row in windows.tolist()}
    assert few.shape == (7, 100) and all(tuple(row) in rows for row in few.tolist())
    assert torch.equal(few[0], windows[0]) and torch.equal(few[-1], windows[-1])
    with pytest.raises(ValueError, match="n_windows=1000000"):
        harness.text_windows("validation", 99, 1000000)


def test_every_variant_of_a_seed_sees_the_same_batches(fresh_seed):
    first, second = (harness.text_batches(fresh_seed, 20, 3) for _ in range(2))
    other = harness.text_batches(fresh_seed + 1, 20, 3)
    for _ in range(3):
        (inputs, targets), (again, _), (elsewhere, _) = next(first), next(second), next(other)
        assert inputs.shape == (3, 20) and torch.equal(inputs, again) and not torch.equal(inputs, elsewhere)
        assert torch.equal(inputs[:, 1:], targets[:, :-1])


def test_training_learns_and_is_repeatable(fresh_seed):
    def trained(steps):
        return harness.train_variant(SMALL, fresh_seed, train_len=16, batch_size=8, steps=steps)

    first, again, longer = trained(1), trained(1), trained(40)
    weights = [model.state_dict()["blocks.0.ffn.up_proj.weight"] for model in (first, again, longer)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert harness.mean_loss(longer, 16) < harness.mean_loss(first, 16) - 0.3
    assert not longer.training


def test_loss_by_position_is_a_loop_over_positions(fresh_seed):
    model = GPT(SMALL, torch.Generator().manual_seed(fresh_seed)).eval()
    windows = harness.text_windows("validation", 12, 5)
    got = harness.loss_by_position(model, windows, batch_size=2)
    want = torch.zeros(12, dtype=torch.float64)
    for row in windows:
        for t in range(12):
            with torch.no_grad():
                probabilities = model(row[None, : t + 1])[0, -1].double().softmax(-1)
            want[t] -= probabilities[row[t + 1]].log() / len(windows)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_with_config_keeps_the_weights(fresh_seed):
    model = GPT(replace(SMALL, position=NoPosition()), torch.Generator().manual_seed(fresh_seed)).eval()
    other = harness.with_config(model, position=Rope())
    assert isinstance(other.config.position, Rope) and isinstance(model.config.position, NoPosition)
    ids = harness.text_windows("validation", 11, 2)[:, :-1]
    with torch.no_grad():
        want, same, turned = (m(ids) for m in (model, harness.with_config(other, position=NoPosition()), other))
    assert torch.equal(same, want) and not torch.allclose(turned, same)
    with pytest.raises(RuntimeError):
        harness.with_config(model, position=Learned())
    alone = harness.with_config(model, position=Alibi())
    assert all(a.data_ptr() != b.data_ptr() for a, b in zip(alone.parameters(), model.parameters(), strict=True))


def test_run_table_keeps_the_order_of_variants_and_seeds():
    asked = []

    def measure(variant, seed):
        asked.append((variant, seed))
        return {"sum": variant + seed, "list": [variant, seed]}

    rows = harness.run_table("sums", {"ten": 10, "five": 5}, [2, 0], measure)
    assert asked == [(10, 2), (10, 0), (5, 2), (5, 0)]
    assert [row.name for row in rows] == ["ten", "five"]
    assert rows[0].values == {"sum": [12, 10], "list": [[10, 2], [10, 0]]}
