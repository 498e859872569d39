"""Bands against a double loop; the whole search against the true similarities."""

import random

import pytest
import torch

from minillm.text.bilingual import bilingual_documents
from minillm.text.lsh import first_of_each, lsh_candidates, meeting_probability, near_duplicates
from minillm.text.minhash import jaccard, shingles


def by_double_loop(signatures: torch.Tensor, n_bands: int) -> set[tuple[int, int]]:
    rows = signatures.shape[1] // n_bands
    return {
        (i, j)
        for j in range(len(signatures))
        for i in range(j)
        if any(torch.equal(signatures[i, s : s + rows], signatures[j, s : s + rows])
               for s in range(0, signatures.shape[1], rows))
    }  # fmt: skip


def test_candidates_agree_in_a_band(fresh_seed: int):
    rng, generator = random.Random(fresh_seed), torch.Generator().manual_seed(fresh_seed)
    for _ in range(20):
        n_bands, rows, n = rng.randint(1, 4), rng.randint(1, 3), rng.randint(1, 12)
        signatures = torch.randint(3, (n, n_bands * rows), generator=generator)
        assert lsh_candidates(signatures, n_bands) == by_double_loop(signatures, n_bands)
    with pytest.raises(ValueError, match="n_bands=5 must divide the length of a signature, 12"):
        lsh_candidates(torch.zeros(2, 12, dtype=torch.int64), 5)


def test_pairs_meet_as_often_as_the_formula_says(fresh_seed: int):
    generator = torch.Generator().manual_seed(fresh_seed)
    for similarity, rows, n_bands in ((0.5, 2, 6), (0.8, 4, 4), (0.3, 1, 3)):
        agree = torch.rand(4000, n_bands, rows, generator=generator) < similarity
        share = agree.all(2).any(1).double().mean().item()
        assert abs(share - meeting_probability(similarity, rows, n_bands)) < 0.04
    assert meeting_probability(1.0, 4, 8) == 1 and meeting_probability(0.0, 4, 8) == 0


def test_planted_copies_are_found_and_nothing_else(fresh_seed: int):
    rng = random.Random(fresh_seed)
    texts = [english for english, _ in bilingual_documents(60, rng)]
    planted = set()
    for i in rng.sample(range(60), 18):
        words = texts[i].split(" ")
        for place in rng.sample(range(len(words)), 2):
            words[place] = "altered"
        planted.add((i, len(texts)))
        texts.append(" ".join(words))
    found = near_duplicates(texts, 0.7, torch.Generator().manual_seed(fresh_seed))
    assert set(found) == planted
    for (i, j), estimate in found.items():
        assert abs(estimate - jaccard(shingles(texts[i]), shingles(texts[j]))) < 0.2
    assert first_of_each(len(texts), list(found)) == list(range(60))


def test_a_chain_of_duplicates_is_one_group(fresh_seed: int):
    pairs = [(3, 5), (0, 3), (1, 4), (4, 6)]
    random.Random(fresh_seed).shuffle(pairs)
    assert first_of_each(8, pairs) == [0, 1, 2, 7]
    assert first_of_each(3, []) == [0, 1, 2]
