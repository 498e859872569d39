r"""The block table of one sequence: which blocks of memory its tokens lie in."""


def blocks_needed(kv_len: int, block_len: int) -> int:
    r"""How many blocks hold a text.

    Args:
        kv_len: tokens, at least 0.
        block_len: tokens a block, at least 1.
    Returns: blocks; the last may be partly empty.
    Lesson: 10.
    """
    return -(-kv_len // block_len)


def block_table_append(
    block_table: list[int], length: int, n_new: int, free_blocks: list[int], block_len: int
) -> tuple[list[int], list[int], list[int]]:
    r"""Find room for new tokens of one sequence: first in its last block, then in free ones.

    Blocks of 4, a sequence of 5 tokens in blocks 7 and 2, and 4 more to come:

        block_table [7, 2]      free_blocks [3, 0, 5]
        slots of the new tokens: 9, 10, 11 (the rest of block 2) and 12 (the first of block 3)
        block_table [7, 2, 3]   free_blocks [0, 5]

    Args:
        block_table: the sequence's blocks, in the order of its tokens.
        length: tokens that it has, at least 0.
        n_new: tokens to come, at least 0.
        free_blocks: blocks that nobody holds; they are taken from the front.
        block_len: tokens a block.
    Returns: the new block table, the blocks that are still free, and the slot of each new token, which is
        block * block_len + its place in the block. New lists; the arguments stay as they are.
    Raises:
        ValueError: if there are too few free blocks.
    Source: Kwon et al. 2023, PagedAttention, section 4.3 and figure 6.
    Lesson: 10.
    """
    n_blocks = blocks_needed(length + n_new, block_len) - len(block_table)
    if n_blocks > len(free_blocks):
        raise ValueError(f"free_blocks: {n_new} more tokens need {n_blocks} blocks of {block_len} and only "
                         f"{len(free_blocks)} are free; release sequences, or make the pool larger")
    taken = max(n_blocks, 0)
    block_table = block_table + free_blocks[:taken]
    places = range(length, length + n_new)
    slots = [block_table[place // block_len] * block_len + place % block_len for place in places]
    return block_table, free_blocks[taken:], slots
