r"""MinHash: how much two texts have in common, read from two short lists of numbers."""

import hashlib
from collections.abc import Iterable, Set

import torch
from jaxtyping import Int64
from torch import Tensor

PRIME = 2**31 - 1  # hashes lie below it; a product of two of them still fits into int64


def shingles(text: str, length: int = 5) -> set[str]:
    r"""Cut a text into overlapping pieces, so that a set knows something about order.

    Letters are made small and white space becomes one space: a copy that was only laid out anew has the same shingles.

    Args:
        text: any text.
        length: characters in a shingle, at least 1.
    Returns: the pieces that occur; a shorter text is one piece.
    Raises:
        ValueError: if length is less than 1 or there is no text.
    Source: Broder 1997, "On the resemblance and containment of documents", with characters for words.
    Lesson: 01.
    """
    plain = " ".join(text.lower().split())
    if length < 1 or not plain:
        raise ValueError(f"length={length} must be at least 1, and text={text[:20]!r} must have some")
    return {plain[i : i + length] for i in range(max(len(plain) - length, 0) + 1)}


def jaccard(a: Set, b: Set) -> float:
    r"""Measure how much two sets have in common: the share of their union that lies in both.

    Args:
        a: a set.
        b: a set.
    Returns: from 0.0 (nothing in common) to 1.0 (equal).
    Raises:
        ValueError: if both are empty.
    Source: Broder 1997, "On the resemblance and containment of documents" (resemblance).
    Lesson: 01.
    """
    if not a and not b:
        raise ValueError("a and b are both empty, and 0 / 0 says nothing; compare texts that have shingles")
    return len(a & b) / len(a | b)


def hash_shingles(pieces: Iterable[str]) -> Int64[Tensor, " n"]:
    r"""Turn each shingle into a number, the same today and tomorrow (Python's own `hash` changes at every start).

    Args:
        pieces: shingles; of equal ones, one counts.
    Returns: (n,), int64, from 0 to PRIME - 1, in rising order.
    Lesson: 01.
    """
    digests = (hashlib.blake2b(piece.encode("utf-8", "surrogatepass"), digest_size=8) for piece in set(pieces))
    return torch.tensor(sorted(int.from_bytes(d.digest(), "big") % PRIME for d in digests), dtype=torch.int64)


def draw_permutations(count: int, generator: torch.Generator) -> tuple[Int64[Tensor, " k"], Int64[Tensor, " k"]]:
    r"""Draw hash functions x -> (multiplier * x + offset) mod PRIME; each shuffles the numbers below PRIME.

    Args:
        count: how many functions.
        generator: the source of chance; it is advanced.
    Returns: multipliers, from 1, and offsets, from 0, (k,) each, int64.
    Source: Broder et al. 2000, "Min-wise independent permutations": linear functions are a good substitute
        for true random permutations.
    Lesson: 01.
    """
    multipliers = torch.randint(1, PRIME, (count,), generator=generator)
    return multipliers, torch.randint(PRIME, (count,), generator=generator)


def minhash_signature(
    shingle_hashes: Int64[Tensor, " n"],
    multipliers: Int64[Tensor, " k"],
    offsets: Int64[Tensor, " k"],
    prime: int = 2**31 - 1,
) -> Int64[Tensor, " k"]:
    r"""Describe a set by k numbers: under each of k shuffles of all hashes, the smallest hash of the set.

    Two sets agree in one such number exactly if the smallest of their union lies in both. After a random shuffle each
    element of the union is equally likely to be that one, so the probability is the Jaccard similarity.

    Args:
        shingle_hashes: (n,), from 0 to prime - 1, at least one.
        multipliers: (k,), from 1 to prime - 1.
        offsets: (k,), from 0 to prime - 1.
        prime: shuffle i sends x to (multipliers[i] * x + offsets[i]) mod prime.
    Returns: (k,), int64, from 0 to prime - 1.
    Raises:
        ValueError: if there is no hash.
    Source: Broder 1997; Broder et al. 2000, "Min-wise independent permutations", introduction.
    Lesson: 01.
    """
    if len(shingle_hashes) == 0:
        raise ValueError("shingle_hashes is empty, and an empty set has no smallest element; leave such texts out")
    shuffled = (multipliers[:, None] * shingle_hashes + offsets[:, None]) % prime
    return shuffled.amin(dim=1)


def estimate_jaccard(signature_a: Int64[Tensor, " k"], signature_b: Int64[Tensor, " k"]) -> float:
    r"""Estimate the Jaccard similarity from two signatures: the share of places where they agree.

    Each place is a coin toss that comes up with probability J, so the standard error is sqrt(J (1 - J) / k).

    Args:
        signature_a: (k,).
        signature_b: (k,), made with the same permutations.
    Returns: from 0.0 to 1.0.
    Lesson: 01.
    """
    return (signature_a == signature_b).double().mean().item()
