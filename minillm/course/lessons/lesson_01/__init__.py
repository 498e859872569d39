r"""Exercises of lesson 01: byte pair encoding, batches, near-duplicates, mixtures, and text token by token."""

from minillm.course.lessons.lesson_01.bands import LSH_CANDIDATES
from minillm.course.lessons.lesson_01.encoding import BPE_ENCODE
from minillm.course.lessons.lesson_01.merging import MERGE_PAIR
from minillm.course.lessons.lesson_01.pairs import COUNT_PAIRS
from minillm.course.lessons.lesson_01.pieces import DECODE_PIECES
from minillm.course.lessons.lesson_01.shares import MIXTURE_SHARES
from minillm.course.lessons.lesson_01.signatures import MINHASH_SIGNATURE
from minillm.course.lessons.lesson_01.windows import NEXT_TOKEN_BATCH

EXERCISES = (
    COUNT_PAIRS,
    MERGE_PAIR,
    BPE_ENCODE,
    DECODE_PIECES,
    NEXT_TOKEN_BATCH,
    MINHASH_SIGNATURE,
    LSH_CANDIDATES,
    MIXTURE_SHARES,
)
