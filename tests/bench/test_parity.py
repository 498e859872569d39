r"""Parity: questions ask what they say, and a model that writes its steps answers where one that does not guesses."""

import pytest
import torch

from minillm.bench import results
from minillm.bench.variants import parity


def fresh_bits(fresh_seed: int, n_rows: int = 20) -> torch.Tensor:
    return torch.randint(2, (n_rows, parity.N_BITS), generator=torch.Generator().manual_seed(fresh_seed))


def test_running_parities_are_those_of_a_loop(fresh_seed: int):
    bits = fresh_bits(fresh_seed)
    for row, found in zip(bits.tolist(), parity.running_parities(bits).tolist(), strict=True):
        odd = False
        for bit, answer in zip(row, found, strict=True):
            odd = odd != bool(bit)
            assert answer == odd


@pytest.mark.parametrize("way", parity.WAYS.values())
def test_questions_ask_what_they_say(way: str, fresh_seed: int):
    inputs, targets = parity.parity_batch(way, 30, torch.Generator().manual_seed(fresh_seed))
    bits, n = inputs[:, : parity.N_BITS], parity.N_BITS
    answers = bits.sum(1) % 2
    assert inputs.shape == targets.shape and bits.max() == 1 and (inputs[:, n] == parity.EQUALS).all()
    assert torch.equal(targets[:, -1], answers)
    counted = (targets != -100).sum(1).unique().tolist()
    assert counted == {"at once": [1], "graded": [n + 1], "dots": [1], "steps": [n]}[way]
    if way == "steps":  # a step is written before it is read
        assert torch.equal(inputs[:, n + 1 :], targets[:, n:-1])
        assert torch.equal(targets[:, n:], parity.running_parities(bits))
    if way == "graded":
        assert torch.equal(targets[:, :n], parity.running_parities(bits))
    if way == "dots":
        assert inputs.shape[1] == 2 * n and (inputs[:, n + 1 :] == parity.DOT).all()


def test_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match="way='aloud'.*at once"):
        parity.parity_batch("aloud", 2, torch.Generator())


def test_written_steps_are_what_the_answer_rests_on():
    model = parity.train_parity("steps", seed=0, steps=130)
    bits = fresh_bits(1, 300)
    assert parity.answered_right(model, bits, "steps").double().mean() > 0.9
    assert parity.follows_a_wrong_step(model, bits, 4).double().mean() > 0.9
    longer = torch.randint(2, (400, 24), generator=torch.Generator().manual_seed(2))
    assert 0.3 < parity.answered_right(model, longer, "steps").double().mean() < 0.7  # chance: 0.5, and 8 sigma


def test_few_steps_give_every_measure(fresh_seed: int):
    guessed = parity.measure_parity("at once", fresh_seed, steps=2, n_questions=1000)
    assert set(guessed) == {"right"} and guessed["right"] < 0.6  # chance is 0.5: 6 sigma
    written = parity.measure_parity("steps", fresh_seed, steps=2, n_questions=20)
    assert set(written) == {"right", "right at 12 bits", "right at 24 bits", "follows a wrong step"}


def test_the_stored_table_says_what_the_lesson_says():
    rows = {row["name"]: row["values"] for row in results.load_table("parity")["rows"]}
    written = rows.pop("after 15 written steps")
    assert set(rows) | {"after 15 written steps"} == set(parity.WAYS)
    assert min(written["right"]) > 0.99 and min(written["follows a wrong step"]) > 0.99
    for guessed in (*(values["right"] for values in rows.values()), written["right at 24 bits"]):
        assert all(0.4 < share < 0.6 for share in guessed)
