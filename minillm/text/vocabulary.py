r"""A second language for a trained tokenizer: its merges go behind those that are there."""

from collections.abc import Mapping

from minillm.text.bpe import Pair


def join_merges(first: Mapping[Pair, int], second: Mapping[Pair, int]) -> dict[Pair, int]:
    r"""Put the merges of a second tokenizer behind those of a first one.

    Every token of the first keeps its id, so a model that was trained with it keeps its embedding; tokens of the
    second that are new get the ids that follow, and a model needs a new row of its embedding for each.

    Args:
        first: from pair to new id, in the order learned, as `train_bpe` gives them.
        second: the same, learned by itself on other text.
    Returns: merges of both, each pair once, with ids that count up from 256.
    Source: Cui et al. 2023, "Efficient and effective text encoding for Chinese LLaMA and Alpaca", section 2.1, which
        does this with two SentencePiece vocabularies.
    Lesson: 01.
    """
    joined = dict(first)
    ids = {byte: byte for byte in range(256)}
    for (left, right), old_id in second.items():
        ids[old_id] = joined.setdefault((ids[left], ids[right]), 256 + len(joined))
    return joined
