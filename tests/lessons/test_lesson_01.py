r"""Lesson 01: what the learner has written is what tokenizes, cuts batches and finds duplicates."""

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

from minillm.course.catalogue import exercise_named
from minillm.course.scenes.bpe_stepper import merge_steps
from minillm.text import lsh, mixture
from minillm.text.bpe import BPETokenizer, train_bpe_by_recounting

USES: dict[str, Callable[[], Any]] = {
    "text.bpe.count_pairs": lambda: train_bpe_by_recounting("abab", 1),
    "text.bpe.merge_pair": lambda: merge_steps("abab", 1),
    "text.bpe.bpe_encode": lambda: BPETokenizer({}).encode("abab"),
    "text.batches.next_token_batch": lambda: mixture.mixed_batch(
        [torch.arange(9)], [1.0], 4, 2, torch.Generator().manual_seed(0)
    ),
    "text.minhash.minhash_signature": lambda: lsh.near_duplicates(["ab", "cd"], 0.5, torch.Generator()),
    "text.lsh.lsh_candidates": lambda: lsh.near_duplicates(["ab", "cd"], 0.5, torch.Generator()),
}


@pytest.mark.parametrize("exercise_id", USES)
def test_the_package_runs_what_stands_in_its_module(exercise_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exercise = exercise_named(exercise_id)
    USES[exercise_id]()

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("the learner's function was called")

    monkeypatch.setattr(importlib.import_module(exercise.module_name), exercise.name, broken)
    with pytest.raises(RuntimeError, match="the learner's function was called"):
        USES[exercise_id]()
