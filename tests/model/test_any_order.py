r"""The prefix LM with blanks and the permutation LM: who depends on whom, and what they reduce to."""

import pytest
import torch

from minillm.config import Init, Learned, Mlp, ModelConfig, Rope
from minillm.layers.masks import prefix_mask
from minillm.layers.permutation import permutation_mask
from minillm.model.blank_filler import BlankFiller
from minillm.model.gpt import GPT
from minillm.model.two_streams import PermutationLM
from minillm.text.infilling import blank_infilling


def config_of(**changes):
    return ModelConfig(**dict(
        vocab_size=31, max_seq_len=24, d_model=16, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=8, ffn=Mlp(24),
        position=Learned(), init=Init(0.5, 0.3, "plain")) | changes)


def shaken(model):
    model = model.eval().double()
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return model


def dependencies(run, ids):
    r"""Which outputs move when each token is changed: (outputs, tokens)."""
    table = []
    for place in range(ids.shape[1]):
        other = ids.clone()
        other[0, place] = (ids[0, place] + 1) % 31
        table.append((run(other) - run(ids)).abs().amax(-1)[0] > 0)
    return torch.stack(table, 1)


def test_a_permutation_lm_sees_what_its_masks_say(fresh_seed):
    torch.manual_seed(fresh_seed)
    model, ids, order = shaken(PermutationLM(config_of())), torch.randint(0, 31, (1, 9)), torch.randperm(9)
    ranks = order.argsort()
    query = dependencies(lambda x: model.streams(x, ranks)[0], ids)
    content = dependencies(lambda x: model.streams(x, ranks)[1], ids)
    assert torch.equal(query, permutation_mask(order, sees_itself=False))
    assert torch.equal(content, permutation_mask(order, sees_itself=True))
    assert torch.equal(dependencies(lambda x: model(x, ranks), ids), query)


def test_in_text_order_the_content_stream_is_a_gpt(fresh_seed):
    torch.manual_seed(fresh_seed)
    model, ids = shaken(PermutationLM(config_of())), torch.randint(0, 31, (2, 9))
    gpt = GPT(config_of()).eval().double()
    gpt.load_state_dict({k: v for k, v in model.state_dict().items() if k != "query_emb"})
    _, content = model.streams(ids, torch.arange(9))
    torch.testing.assert_close(model.final_norm(content), gpt.hidden(ids))


def test_the_permutation_lm_passes_gradients_and_hides_padding(fresh_seed):
    torch.manual_seed(fresh_seed)
    model, ids = shaken(PermutationLM(config_of())), torch.randint(0, 31, (1, 8))
    ranks = torch.tensor([[2, 0, 3, 1, 4, -1, -1, -1]])
    torch.testing.assert_close(model(ids, ranks)[:, :5], model(ids[:, :5], ranks[:, :5]))
    model(ids, ranks)[:, :5].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_a_blank_filler_sees_the_whole_text_and_what_it_has_written(fresh_seed):
    torch.manual_seed(fresh_seed)
    cut = blank_infilling(list(range(10)), [(2, 4), (6, 9)], 30, 29, 28, [1, 0])
    model, n_a = shaken(BlankFiller(config_of(), max_span_len=4)), int((cut.order == 0).sum())
    seen = dependencies(lambda x: model(x, cut.text_positions, cut.span_positions, cut.order), cut.token_ids[None])
    places = torch.arange(len(cut.token_ids))
    assert torch.equal(seen, prefix_mask(places, places, n_a))


def test_without_blanks_a_blank_filler_is_a_gpt(fresh_seed):
    torch.manual_seed(fresh_seed)
    model, ids, places = shaken(BlankFiller(config_of(), max_span_len=3)), torch.randint(0, 31, (2, 7)), torch.arange(7)
    gpt = GPT(config_of()).eval().double()
    with torch.no_grad():
        model.span_pos_emb.weight[0] = 0
    gpt.load_state_dict({k: v for k, v in model.state_dict().items() if "span" not in k})
    torch.testing.assert_close(model(ids, places, torch.zeros(7, dtype=torch.int64), places), gpt(ids))


@pytest.mark.parametrize("make", [PermutationLM, lambda config: BlankFiller(config, 3)])
def test_other_positions_are_refused(make):
    with pytest.raises(ValueError, match="position=Rope"):
        make(config_of(position=Rope()))
