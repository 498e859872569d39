r"""What holds for every method with vectors of its own: asked of prompts, templates and prefixes alike."""

import torch
from torch import Tensor, nn

from minillm.inference.generate import generate

N_TOKENS = 11  # of the tiny models' vocabulary
EXACT = {"rtol": 1e-9, "atol": 1e-9}  # float64


def ids_of(generator: torch.Generator, *shape: int) -> Tensor:
    r"""Random token ids."""
    return torch.randint(N_TOKENS, shape, generator=generator)


def require_pieces_equal_whole(model: nn.Module, generator: torch.Generator) -> None:
    r"""However a text is cut, with a cache it gives what it gives at once."""
    ids = ids_of(generator, 3, 12)
    whole = model(ids)
    for _ in range(2):
        cuts = sorted(set(torch.randint(1, 12, (4,), generator=generator).tolist()))
        cache = model.new_cache(3, 12)
        pieces = [model(piece, cache=cache) for piece in ids.tensor_split(cuts, dim=1)]
        torch.testing.assert_close(torch.cat(pieces, dim=1), whole, **EXACT)


def require_padding_unseen(model: nn.Module, generator: torch.Generator) -> None:
    r"""Rows padded on the left give what each gives alone, at once, in pieces, and when they write on."""
    ids, widths = ids_of(generator, 3, 9), [9, *torch.randint(1, 9, (2,), generator=generator).tolist()]
    mask = torch.stack([torch.arange(9) >= 9 - width for width in widths])
    alone = [model(row[None, 9 - width :])[0] for row, width in zip(ids, widths, strict=True)]
    cut = int(torch.randint(1, 9, (), generator=generator))
    cache = model.new_cache(3, 9)
    pieces = [model(ids[:, :cut], mask[:, :cut], cache=cache), model(ids[:, cut:], mask, cache=cache)]
    for batch in (model(ids, mask), torch.cat(pieces, dim=1)):
        for row, width, want in zip(batch, widths, alone, strict=True):
            torch.testing.assert_close(row[9 - width :], want, **EXACT)
    torch.testing.assert_close(model.last_logits(ids, mask), model(ids, mask)[:, -1], **EXACT)
    written = generate(model, ids, 5, temperature=0.0, padding_mask=mask)[-1, 9 - widths[-1] :]
    assert torch.equal(written, generate(model, written[None, : widths[-1]], 5, temperature=0.0)[0])


def require_frozen_base(tuned: nn.Module, base: nn.Module, generator: torch.Generator) -> None:
    r"""Gradients reach every number that is trained and none of the base's, whose memory is shared and unchanged."""
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    shared = {parameter.data_ptr() for parameter in base.parameters()}
    trained = {name: each for name, each in tuned.named_parameters() if each.requires_grad}
    assert trained.keys() == set(tuned.small_names)
    assert {each.data_ptr() for each in tuned.parameters()} - {each.data_ptr() for each in trained.values()} == shared
    tuned(ids_of(generator, 2, 10)).square().sum().backward()
    assert all(bool(each.grad.any()) for each in trained.values()), "something is trained without an effect"
    assert all(each.grad is None and each.requires_grad for each in base.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())
    assert not hasattr(base, "card")
