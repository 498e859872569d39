r"""Texts that begin alike share the blocks of their beginning: found by the hash of what stands in them."""

import hashlib
from collections.abc import Sequence
from typing import Any

from jaxtyping import Int
from torch import Tensor

from minillm.inference.caches.block_pool import BlockPool
from minillm.inference.caches.paged import PagedCache, PagedRows


def block_digests(token_ids: Sequence[int], block_len: int) -> list[bytes]:
    r"""One name for each full block of a text: blocks with the same name hold the same keys and values.

    Keys and values depend on the whole text before them (in all layers but the first), so a block may be shared only
    where the beginnings agree from the first token on. Each hash therefore contains the one before.

    Args:
        token_ids: of one text.
        block_len: tokens a block, at least 1.
    Returns: 32 bytes for each full block; tokens in a block that is not full have no name.
    Source: the chain of hashes is that of vLLM's automatic prefix caching; Zheng et al. 2024, SGLang, section 3, find
        the same beginnings in a radix tree.
    Lesson: 10.
    """
    digests, last = [], b""
    for start in range(0, len(token_ids) - block_len + 1, block_len):
        block = ",".join(str(int(token)) for token in token_ids[start : start + block_len])
        last = hashlib.sha256(last + block.encode()).digest()
        digests.append(last)
    return digests


class PrefixIndex:
    r"""Which block of a pool holds which piece of text; it keeps the blocks that it knows from being freed.

    Args:
        pool: whose blocks.
    Source: Zheng et al. 2024, SGLang, section 3; Kwon et al. 2023, PagedAttention, section 4.4, "Shared prefix".
    Lesson: 10.
    """

    def __init__(self, pool: BlockPool):
        self.pool = pool
        self._blocks: dict[bytes, int] = {}

    def remember(self, caches: Sequence[PagedCache], token_ids: Int[Tensor, "B T"]) -> None:
        r"""Note the full blocks of texts whose keys and values are in the pool.

        Args:
            caches: that these texts went through, from their first token on and without padding.
            token_ids: the texts, (B, T), prompts and what was written; the newest tokens need not be in the caches yet.
        Raises:
            ValueError: if the caches hold padding, or belong to another pool.
        """
        rows = caches[0].rows
        if rows.pool is not self.pool or any(count != rows.length for count in rows.counts):
            raise ValueError(f"caches: {rows.counts} tokens of {rows.length} seen are stored; remember texts of this "
                             "index's own pool, without padding")
        for table, text in zip(rows.block_tables, token_ids[:, : rows.length].tolist(), strict=True):
            for digest, block in zip(block_digests(text, self.pool.block_len), table, strict=False):
                if digest not in self._blocks:
                    self.pool.hold([block])
                    self._blocks[digest] = block

    def match(self, token_ids: Sequence[int]) -> list[int]:
        r"""The blocks of the longest known beginning of a text.

        Args:
            token_ids: of one text.
        Returns: blocks, in order; empty if not even the first block is known.
        """
        found = []
        for digest in block_digests(token_ids, self.pool.block_len):
            if digest not in self._blocks:
                break
            found.append(self._blocks[digest])
        return found

    def forget_unused(self) -> int:
        r"""Let go of the blocks that no text uses at present.

        Returns: how many blocks have become free.
        """
        unused = {digest: block for digest, block in self._blocks.items() if self.pool.ref_counts[block] == 1}
        self._blocks = {digest: block for digest, block in self._blocks.items() if digest not in unused}
        self.pool.release(unused.values())
        return len(unused)


def prefix_caches(
    model: Any, index: PrefixIndex, token_ids: Int[Tensor, "1 T"]
) -> tuple[list[PagedCache], int]:
    r"""Caches for a new text that already hold what is known of its beginning.

    At least the last token is left to compute: its logits are what the text is continued with.

    Args:
        model: the pool's.
        index: what is known.
        token_ids: the text, (1, T), int64.
    Returns: layer caches and the number of tokens in them: go on with token_ids from there.
    Source: Zheng et al. 2024, SGLang, section 3.
    Lesson: 10.
    """
    shared = index.match(token_ids[0, :-1].tolist())
    index.pool.hold(shared)
    n_shared = len(shared) * index.pool.block_len
    rows = PagedRows(index.pool, [shared], [n_shared], n_shared)
    return [PagedCache(layer, rows) for layer in range(len(model.blocks))], n_shared
