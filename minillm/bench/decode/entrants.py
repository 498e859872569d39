r"""Who is timed: a real model in somebody's hands, as a function that writes on and one that tells its logits."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minillm.inference.fast.build import kernel_failure
from minillm.inference.fast.decoder import FastDecoder
from minillm.inference.fast.kernel_decoder import KernelDecoder
from minillm.inference.generate import generate
from minillm.inference.quantization.convert import stored_bytes
from minillm.pretrained.loading import load_model

WEIGHTS = ("fp32", "bf16", "int8", "int4")
OF_THE_KERNEL = ("int8", "int4")
ROWS = 8  # texts at once, where several are written


@dataclass(frozen=True)
class Entrant:
    r"""One line of the comparison.

    Args:
        name: `transformers`, `llama.cpp` or `ours`.
        weights: how it holds them.
        path: what it computes with, in a word or two.
        n_bytes: of the weights that it reads for each token.
        write: (prompts (B, T) int64, n_new) -> the likeliest tokens one after the other, (B, n_new) int64.
        logits: (T,) int64 -> (T, V) float32, from one token at a time with a cache: the numbers it writes by.
    """

    name: str
    weights: str
    path: str
    n_bytes: int
    write: Callable[[Tensor, int], Tensor]
    logits: Callable[[Tensor], Tensor]


def own_entrants(path: Path, weights: tuple[str, ...] = WEIGHTS) -> Iterator[Entrant]:
    r"""Ours: the fast path in plain PyTorch with each kind of weights, and the C++ kernel where it can be built.

    Args:
        path: of the model.
        weights: which kinds.
    Returns: an iterator over them; a model is read when its turn comes.
    """
    for kind in weights:
        model = load_model(path, kind, "cpu")
        yield of_model(FastDecoder(model), kind, "PyTorch", stored_bytes(model))
        if kind in OF_THE_KERNEL and kernel_failure() is None:
            yield of_model(KernelDecoder(model), kind, "kernel", stored_bytes(model))


def of_model(model: Any, weights: str, path: str, n_bytes: int) -> Entrant:
    r"""One of ours.

    Args:
        model: called and cached like a GPT.
        weights: how it holds them.
        path: what it computes with.
        n_bytes: read for each token.
    Returns: the entrant.
    """
    def write(prompts: Tensor, n_new: int) -> Tensor:
        return generate(model, prompts, n_new, temperature=0.0)[:, prompts.shape[1] :]

    return Entrant("ours", weights, path, n_bytes, write, partial(step_by_step, model))


def step_by_step(model: Any, token_ids: Tensor) -> Tensor:
    r"""The logits of a model that reads a text token by token.

    Args:
        model: called and cached like a GPT.
        token_ids: (T,), int64.
    Returns: (T, V), float32.
    """
    with torch.inference_mode():
        cache = model.new_cache(1, len(token_ids))
        return torch.cat([model(one[None], cache=cache)[0].float() for one in token_ids.split(1)])
