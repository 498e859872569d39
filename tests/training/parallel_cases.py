r"""A model, batches of unequal lengths, and what the ranks of the tests run; here, because processes import it."""

import torch
import torch.nn.functional as F

from minillm.config import Init, Mlp, preset
from minillm.model.gpt import GPT
from minillm.training import data_parallel, pipeline, split_gpt, zero_run

VOCAB, LENGTH = 24, 10


def parallel_config(**changes):
    sizes = dict(vocab_size=VOCAB, max_seq_len=LENGTH, d_model=16, n_layers=4, n_heads=4, n_kv_heads=4, head_dim=4)
    return preset("tiny", **{**sizes, "ffn": Mlp(32), "init": Init(0.3, 0.2, "scaled"), **changes})


def whole_model(seed, **changes):
    model = GPT(parallel_config(**changes), torch.Generator().manual_seed(seed))
    return model, {name: weight.clone() for name, weight in model.state_dict().items()}


def uneven_batch(seed, n_rows=6):
    r"""Rows with 1 to 10 targets; the number falls from row to row, so that no two ranks have equally many."""
    ids = torch.randint(VOCAB, (n_rows, LENGTH + 1), generator=torch.Generator().manual_seed(seed))
    n_counted = torch.linspace(LENGTH, 1, n_rows).long()[:, None]
    return ids[:, :-1].contiguous(), ids[:, 1:].masked_fill(torch.arange(LENGTH) >= n_counted, -100)


def whole_loss(model, token_ids, targets):
    return F.cross_entropy(model(token_ids).flatten(0, 1), targets.flatten(), ignore_index=-100)


def one_gradient(wire, config, weights, batch):
    model = GPT(config)
    model.load_state_dict(weights)
    rows = data_parallel.own_rows(*batch, wire.rank, wire.n_ranks)
    loss, gradient = data_parallel.data_parallel_gradient(model, *rows, wire)
    return loss.item(), gradient, dict(wire.sent)


def every_kind(config, weights, batches):
    r"""All four kinds of parallelism, for `run_in_turn`."""
    first = (config, weights, *batches[0])
    return ((zero_run.all_stages, (config, weights, batches, 1e-2)), (split_gpt.split_forward_backward, first),
            (pipeline.pipeline_gradients, (*first, 3)), (one_gradient, (config, weights, batches[0])))  # fmt: skip
