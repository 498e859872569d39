r"""`minillm bench decode`: everyone has the same turns, a bad one is named, and the report has what is promised."""

import json
from dataclasses import replace

import pytest
import torch

from minillm.bench.decode import race
from minillm.bench.decode.entrants import of_model, step_by_step
from minillm.config import preset
from minillm.model.gpt import GPT


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return GPT(preset("tiny-llama", vocab_size=50, max_seq_len=600)).eval()


@pytest.fixture
def token_ids(fresh_seed):
    return torch.randint(50, (600,), generator=torch.Generator().manual_seed(fresh_seed))


def test_the_report_has_a_line_for_each_entrant(model, token_ids, monkeypatch):
    monkeypatch.setattr(race, "measure_bandwidth", iter([9000.0, 8000.0, 2000.0]).__next__)
    torch.manual_seed(1)
    other = GPT(model.config).eval()
    other.tok_emb.weight.data.mul_(50)  # fresh weights foresee everything alike
    asked = []
    first = of_model(model, "fp32", "PyTorch", 4000)
    counted = replace(first, name="peer", write=lambda ids, n: (asked.append((*ids.shape, n)), first.write(ids, n))[1])
    entrants = [counted, first, of_model(other, "int8", "kernel", 1000)]
    rows, bandwidth = race.contest(entrants, token_ids, rounds=3, new_tokens=5, quality_tokens=20)
    assert bandwidth == 8000.0
    assert json.loads(json.dumps(rows)) == rows
    assert [(row["name"], row["weights"], row["path"]) for row in rows] == [
        ("peer", "fp32", "PyTorch"), ("ours", "fp32", "PyTorch"), ("ours", "int8", "kernel")]
    assert rows[0]["kl"] == rows[1]["kl"] == 0 and rows[0]["same_tokens"] == rows[1]["same_tokens"] == 5
    assert rows[0]["passes"] and rows[1]["passes"]
    assert rows[2]["kl"] > 0.03 and not rows[2]["passes"], "a model that is another one passes the gate"
    for row in rows:
        for job in race.TIMED:
            assert row[job]["tokens_per_s"] > 0 and len(row[job]["ratios"]) == 3
            assert min(row[job]["ratios"]) <= row[job]["ratio"] <= max(row[job]["ratios"])
        assert row["of_bound"] > 0
    assert [row["bound"] for row in rows] == [2.0, 2.0, 8.0]
    assert all(ratio == 1.0 for job in race.TIMED for ratio in rows[0][job]["ratios"]), "the yardstick is not the first"
    turns = [(1, 32, 5), (1, 32, 1), (1, 512, 1), (8, 32, 5)]
    assert asked == [(1, 32, 5)] * 2 + turns * (1 + 3)
    report = {"rounds": 3, "machine": "m", "threads": 1, "torch": "t", "bandwidth": 8000, "long_prompt": 512, "rows": 8,
              "notes": ["no peer today"], "entrants": rows}
    text = race.decode_text(report)
    assert "ours int8 kernel" in text and "does not count" in text and "no peer today" in text


def test_logits_are_those_of_reading_all_at_once(model, token_ids):
    with torch.inference_mode():
        torch.testing.assert_close(step_by_step(model, token_ids[:20]), model(token_ids[None, :20])[0])


def test_mistakes_are_answered():
    with pytest.raises(ValueError, match="rounds=0"):
        race.measure_decode(rounds=0)
    with pytest.raises(ValueError, match="'int3' is none of"):
        race.measure_decode(weights=["int3"])
