r"""Prompts in front of texts: against loops, and against the base given the same vectors."""

import torch

from minillm.tuning import prompts


def test_prompt_concat_puts_the_prompt_before_every_row(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    k, batch_size, seq_len, width = torch.randint(1, 7, (4,), generator=generator).tolist()
    prompt = torch.randn(k, width, generator=generator)
    x = torch.randn(batch_size, seq_len, width, generator=generator, dtype=torch.float64)
    padding_mask = torch.rand(batch_size, seq_len, generator=generator) < 0.5
    both, mask = prompts.prompt_concat(prompt, x, padding_mask)
    assert both.shape == (batch_size, k + seq_len, width) and both.dtype == x.dtype and mask.dtype == torch.bool
    for row in range(batch_size):
        for place in range(k + seq_len):
            want = prompt[place].double() if place < k else x[row, place - k]
            assert torch.equal(both[row, place], want)
            assert bool(mask[row, place]) == (place < k or bool(padding_mask[row, place - k]))
