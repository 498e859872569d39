r"""The permutation mask against a walk along the order."""

import torch

from minillm.layers.masks import causal_mask
from minillm.layers.permutation import permutation_mask


def test_mask_of_any_order(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    for seq_len in (1, 2, 5, 9):
        order = torch.randperm(seq_len, generator=generator)
        for itself in (True, False):
            mask = permutation_mask(order, itself)
            for rank, place in enumerate(order.tolist()):
                seen = set(order[:rank].tolist()) | ({place} if itself else set())
                assert set(mask[place].nonzero().flatten().tolist()) == seen


def test_text_order_is_the_causal_mask():
    order = torch.arange(7)
    assert torch.equal(permutation_mask(order, True), causal_mask(order, order))
