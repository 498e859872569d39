"""MinHash against sets: a signature is a minimum over permutations, and its estimate is as exact as it claims."""

import math
import random
import subprocess
import sys

import pytest
import torch

from minillm.text import minhash
from minillm.text.minhash import (
    PRIME,
    draw_permutations,
    estimate_jaccard,
    hash_shingles,
    jaccard,
    minhash_signature,
    shingles,
)


def two_sets(rng: random.Random) -> tuple[set[str], set[str]]:
    n, n_common = rng.randint(30, 300), rng.randint(0, 100)
    common = {f"both{rng.random()}" for _ in range(round(n * n_common / 100))}
    only_a, only_b = ({f"{name}{rng.random()}" for _ in range((n - len(common)) // 2 + 1)} for name in "ab")
    return common | only_a, common | only_b


def test_shingles_are_all_pieces_of_the_text_without_layout():
    assert shingles("Ab  c\nd", 3) == {"ab ", "b c", " c ", "c d"}
    assert shingles("ab", 5) == {"ab"} and shingles("好的好的", 2) == {"好的", "的好"}
    with pytest.raises(ValueError, match="length=0"):
        shingles("abc", 0)
    with pytest.raises(ValueError, match="text="):
        shingles(" \n ", 3)


def test_jaccard_of_small_sets():
    assert jaccard({1, 2, 3}, {2, 3, 4}) == 0.5
    assert jaccard({1}, {2}) == 0 and jaccard({1}, {1}) == 1 and jaccard(set(), {1}) == 0
    with pytest.raises(ValueError, match="both empty"):
        jaccard(set(), set())


def test_hashes_are_the_same_in_every_process():
    ours = hash_shingles({"one", "two", "三"})
    code = "from minillm.text.minhash import hash_shingles; print(hash_shingles(['三', 'two', 'one', 'one']).tolist())"
    theirs = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert theirs.strip() == str(ours.tolist()) and len(set(ours.tolist())) == 3
    assert ours.dtype == torch.int64 and 0 <= int(ours.min()) and int(ours.max()) < PRIME


def test_signature_is_the_smallest_of_each_shuffle(fresh_seed: int):
    rng = random.Random(fresh_seed)
    hashes = [rng.randrange(PRIME) for _ in range(rng.randint(1, 50))] + [PRIME - 1]
    multipliers, offsets = draw_permutations(20, torch.Generator().manual_seed(fresh_seed))
    functions = zip(multipliers.tolist(), offsets.tolist(), strict=True)
    by_hand = [min((a * x + b) % PRIME for x in hashes) for a, b in functions]
    assert minhash_signature(torch.tensor(hashes), multipliers, offsets).tolist() == by_hand
    with pytest.raises(ValueError, match="empty"):
        minhash_signature(torch.tensor([], dtype=torch.int64), multipliers, offsets)


def test_each_shuffle_is_a_permutation(monkeypatch: pytest.MonkeyPatch, fresh_seed: int):
    monkeypatch.setattr(minhash, "PRIME", 31)
    multipliers, offsets = draw_permutations(200, torch.Generator().manual_seed(fresh_seed))
    assert int(multipliers.min()) >= 1 and int(multipliers.max()) <= 30 and int(offsets.max()) <= 30
    for a, b in zip(multipliers.tolist(), offsets.tolist(), strict=True):
        assert sorted((a * x + b) % 31 for x in range(31)) == list(range(31))


def test_estimate_is_off_by_its_standard_error_and_not_by_more(fresh_seed: int):
    r"""Over many pairs the squared error is J (1 - J) / k on average, and the errors have no direction."""
    rng, generator = random.Random(fresh_seed), torch.Generator().manual_seed(fresh_seed)
    in_standard_errors = []
    for _ in range(400):
        a, b = two_sets(rng)
        true, k = jaccard(a, b), 128
        permutations = draw_permutations(k, generator)
        estimate = estimate_jaccard(*(minhash_signature(hash_shingles(s), *permutations) for s in (a, b)))
        if 0.05 < true < 0.95:
            in_standard_errors.append((estimate - true) / math.sqrt(true * (1 - true) / k))
    scores = torch.tensor(in_standard_errors)
    assert len(scores) > 100
    # Linear functions are only nearly min-wise independent, and 100 to 400 scores have a spread of their own.
    assert abs(scores.mean()) < 0.5 and 0.7 < scores.square().mean() < 1.5, (scores.mean(), scores.square().mean())


def test_equal_sets_agree_everywhere_and_strangers_nowhere(fresh_seed: int):
    permutations = draw_permutations(64, torch.Generator().manual_seed(fresh_seed))
    one, same, other = (
        minhash_signature(hash_shingles(shingles(text)), *permutations)
        for text in ("A red kite over the hill.", "a red kite\nover  the hill.", "Nothing to do with it at all!")
    )
    assert estimate_jaccard(one, same) == 1.0 and estimate_jaccard(one, other) < 0.1
