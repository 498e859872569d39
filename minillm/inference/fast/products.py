r"""The quickest way that this machine has for a matrix, found by a trial.

A way that is missing, or that gives other numbers than the layer itself, is passed over; the layer's own forward always
remains.
"""

import time
from typing import Any

import torch
from torch import Tensor

from minillm.inference.fast import ways
from minillm.inference.fast.matrices import first_rows, join, own_dtype, sizes
from minillm.inference.fast.ways import Product, Way, own_forward

TRIAL_FROM = 2**16  # bytes of a matrix
TRIAL_ROWS = 2048  # of a large matrix: enough to judge by
TRIAL_BYTES, MOST_COPIES = 2**25, 24  # of one matrix: more than a processor's caches hold, as a model is
CLOSE = 0.02  # of the largest output: far more than rounding of any way, far less than any mistake
_chosen: dict[tuple, Way] = {}  # for this process, so that equal models get equal ways


def quickest_product(layer: Any, n_rows: int = 1) -> Product:
    r"""A layer as a function of float32 activations, by the way that was quickest in a trial.

    Args:
        layer: an nn.Linear, Int8Linear or Int4Linear on the CPU; its weights are read now, and again at each call
            only where a way needs no copy.
        n_rows: for how many rows at once; one is kept to, several may be any number.
    Returns: (M, C) float32 -> (M, R) float32, a new tensor.
    Lesson: 11.
    """
    key = (type(layer), own_dtype(layer), *sizes(layer), n_rows, torch.get_num_threads())
    if key not in _chosen:
        _chosen[key] = _winner(first_rows(layer, min(TRIAL_ROWS, key[2])), n_rows)
    product = _chosen[key](layer, n_rows) or own_forward(layer, n_rows)
    if layer.bias is None:
        return product
    bias = layer.bias.detach().float()
    return lambda x: product(x).add_(bias)


def working_ways(layer: Any, n_rows: int) -> dict[Way, Product]:
    r"""The ways that exist here for a layer, and give what the layer itself gives.

    Args:
        layer: without bias.
        n_rows: M.
    Returns: their products; `own_forward` is the first.
    Lesson: 11.
    """
    x = (torch.arange(n_rows * sizes(layer)[1]).view(n_rows, -1) * 0.7).sin()  # no chance, so no global state is moved
    want = own_forward(layer, n_rows)(x)
    found = {}
    for way in ways.WAYS:
        try:
            product = way(layer, n_rows)
            if product is not None and _close(product(x.clone()), want):
                found[way] = product
        except (AttributeError, RuntimeError, NotImplementedError, TypeError):
            continue  # this torch, or this processor, has none
    return found


def _winner(layer: Any, n_rows: int, rounds: int = 7) -> Way:
    r"""The way that is quickest over several matrices one after the other, as they come in a model."""
    n_bytes = sum(each.nbytes for each in (*layer.parameters(), *layer.buffers()))
    if n_bytes < TRIAL_FROM:  # no way is slow
        return own_forward
    working = [*working_ways(layer, n_rows)]
    if len(working) == 1:
        return working[0]
    copies = [join([layer]) for _ in range(max(2, min(MOST_COPIES, TRIAL_BYTES // n_bytes)))]
    many = {way: [way(each, n_rows) for each in copies] for way in working}
    x, least = torch.ones(n_rows, sizes(layer)[1]), dict.fromkeys(working, float("inf"))
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter  # the former leaves out waiting
    for _ in range(rounds):  # in turns, so that whatever else the machine does disturbs all alike
        for way, run in many.items():
            start = clock()
            for product in run:
                product(x)
            least[way] = min(least[way], clock() - start)
    return min(least, key=least.__getitem__)


def _close(got: Tensor, want: Tensor) -> bool:
    return got.shape == want.shape and bool((got - want).abs().max() <= CLOSE * want.abs().max())
