r"""Locality-sensitive hashing: find near-duplicates without comparing every text with every other."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

import torch
from jaxtyping import Int64
from torch import Tensor

from minillm.text import minhash


def lsh_candidates(signatures: Int64[Tensor, "n k"], n_bands: int) -> set[tuple[int, int]]:
    r"""Find the pairs of signatures that agree in at least one whole band.

    A signature of k numbers is cut into n_bands bands of k / n_bands neighbours. Texts whose numbers in some band are
    all equal meet in one bucket of that band, and only texts that meet are compared later.

    Args:
        signatures: (n, k), a text a row.
        n_bands: divides k.
    Returns: pairs (i, j) of rows with i < j.
    Raises:
        ValueError: if n_bands does not divide k.
    Source: Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4.
    Lesson: 01.
    """
    n_hashes = signatures.shape[1]
    if n_bands < 1 or n_hashes % n_bands:
        raise ValueError(f"n_bands={n_bands} must divide the length of a signature, {n_hashes}")
    pairs: set[tuple[int, int]] = set()
    for band in signatures.chunk(n_bands, dim=1):
        buckets: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, numbers in enumerate(band.tolist()):
            buckets[tuple(numbers)].append(i)
        for bucket in buckets.values():
            pairs.update(combinations(bucket, 2))
    return pairs


def meeting_probability(similarity: float, rows: int, n_bands: int) -> float:
    r"""How likely two texts of a given similarity are to meet in some band.

    Args:
        similarity: their Jaccard similarity, from 0 to 1.
        rows: numbers in a band.
        n_bands: bands in a signature.
    Returns: 1 - (1 - similarity^rows)^n_bands, an S-shaped curve of the similarity.
    Source: Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4.2.
    Lesson: 01.
    """
    return 1 - (1 - similarity**rows) ** n_bands


def near_duplicates(
    texts: Sequence[str],
    threshold: float,
    generator: torch.Generator,
    n_hashes: int = 128,
    n_bands: int = 32,
    shingle_len: int = 5,
) -> dict[tuple[int, int], float]:
    r"""Find the pairs of texts that are nearly equal.

    Signatures give candidates, and a candidate counts if the estimate from the whole signatures reaches the threshold.

    Args:
        texts: none of them empty.
        threshold: the Jaccard similarity from which two texts count as duplicates.
        generator: draws the hash functions; it is advanced.
        n_hashes: length of a signature.
        n_bands: bands of it; more bands find more, and compare more.
        shingle_len: characters in a shingle.
    Returns: for each pair of places (i, j) with i < j its estimated similarity.
    Source: Lee et al. 2022, "Deduplicating training data makes language models better", section 4.2 (NearDup).
    Lesson: 01.
    """
    permutations = minhash.draw_permutations(n_hashes, generator)
    hashed = [minhash.hash_shingles(minhash.shingles(text, shingle_len)) for text in texts]
    signatures = torch.stack([minhash.minhash_signature(hashes, *permutations) for hashes in hashed])
    estimates = {
        (i, j): minhash.estimate_jaccard(signatures[i], signatures[j]) for i, j in lsh_candidates(signatures, n_bands)
    }
    return {pair: estimate for pair, estimate in sorted(estimates.items()) if estimate >= threshold}


def first_of_each(n_texts: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    r"""Keep one text of each group of duplicates.

    Duplicates of duplicates belong to one group, also where the two ends of the chain are not alike.

    Args:
        n_texts: how many texts there are.
        pairs: places of duplicates.
    Returns: the places to keep, the first of each group, in rising order.
    Lesson: 01.
    """
    first = list(range(n_texts))

    def group(i: int) -> int:
        while first[i] != i:
            first[i] = i = first[first[i]]
        return i

    for i, j in pairs:
        a, b = sorted((group(i), group(j)))
        first[b] = a
    return [i for i in range(n_texts) if group(i) == i]
