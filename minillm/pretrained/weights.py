r"""Where each weight goes: a table of moves, and the one function that carries them out."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minillm.model import init

SUFFIXES = (".weight", ".bias", "")


@dataclass(frozen=True)
class Move:
    r"""From some of their modules to some of ours.

    A name is a module's, and its weight and its bias, where it has them, move alike; or it is the full name of a single
    parameter of theirs. `{i}` in a name stands for the index of a layer, until `each_layer` writes it out.

    Args:
        theirs: names, separated by spaces; empty: ours keep what a fresh model has (norms of ones and zeros).
        ours: names, separated by spaces; empty: nothing of theirs is needed.
        how: their tensors -> our tensor, or a sequence of ours where there are several; None: as it is, copied to all.
    """

    theirs: str
    ours: str
    how: Callable[..., Any] | None = None


@dataclass(frozen=True)
class Plan:
    r"""What a converter of a family says: which model to build, and the moves that fill it.

    Args:
        build: makes our model, with any weights.
        moves: the table.
    """

    build: Callable[[], nn.Module]
    moves: Sequence[Move]


def each_layer(n_layers: int, moves: Iterable[Move]) -> list[Move]:
    r"""The same moves for every layer.

    Args:
        n_layers: L.
        moves: with `{i}` in their names.
    Returns: L times as many, with 0 to L - 1 in its place.
    """
    return [Move(move.theirs.format(i=i), move.ours.format(i=i), move.how) for i in range(n_layers) for move in moves]


def shares_memory(state: Mapping[str, Tensor], name: str, other: str) -> bool:
    r"""Whether two parameters are one (tied weights); the tensors know it better than a configuration does.

    Args:
        state: a state_dict.
        name: of one parameter.
        other: of another.
    Returns: True if both are there and lie in the same memory.
    """
    if name not in state or other not in state:
        return False
    one, two = state[name], state[other]  # both at once: memory that is given back may be given out again
    return one.data_ptr() == two.data_ptr() and one.shape == two.shape


def fill_model(
    model: nn.Module, state: Mapping[str, Tensor], moves: Iterable[Move], where: str = "hf_model"
) -> None:
    r"""Carry out the moves: each of their tensors is used once, each of ours filled, or it is an error.

    Each tensor is fetched when its turn comes and let go after it, so a `state` may read a file piece by piece.

    Args:
        model: ours; changed.
        state: their state_dict.
        moves: the table, layers written out.
        where: what errors call the other model.
    Raises:
        ValueError: if a tensor of theirs is missing or left over, one of ours stays empty, or a shape does not fit.
    """
    targets = dict(model.named_parameters(remove_duplicate=False))  # a tied one has two names and one identity
    used: Counter[str] = Counter()
    missing: list[str] = []
    filled: set[int] = set()
    for move in moves:
        theirs, ours = move.theirs.split(), move.ours.split()
        missing += [name for name in theirs if not any(name + suffix in state for suffix in SUFFIXES)]
        for suffix in SUFFIXES if theirs else SUFFIXES[:2]:
            sources = [name + suffix for name in theirs]
            if not all(name in state for name in sources):
                continue
            used.update(sources)
            made = _outcome(move, [state[name] for name in sources], len(ours))
            for name, tensor in zip(ours, made, strict=True):
                _put(targets, name + (suffix or ".weight"), tensor, filled, where)
            made = None
    for problem, names in {
        "missing; take the class with the language-model head, such as ...ForCausalLM": missing,
        "used twice": [name for name, times in used.items() if times > 1],
        "left over, the converter knows no place for it": [name for name in state if name not in used],
        "of our model is filled by nothing": [name for name, target in targets.items() if id(target) not in filled],
    }.items():
        if names:
            raise ValueError(f"{where}: {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}: {problem}")


def _outcome(move: Move, tensors: list[Tensor], n_ours: int) -> Sequence[Tensor | None]:
    if not tensors:
        return [None] * n_ours
    made = tensors if move.how is None else move.how(*tensors)
    if isinstance(made, Tensor):
        return [made] * n_ours
    return made * n_ours if len(made) == 1 else made


def _put(
    targets: Mapping[str, nn.Parameter], name: str, tensor: Tensor | None, filled: set[int], where: str
) -> None:
    target = targets.get(name)
    if target is None:
        if tensor is None:
            return
        raise ValueError(f"{where}: a tensor for {name}, which our model does not have: its weights do not agree with "
                         "its config")
    if tensor is None:  # norms and biases start from ones and zeros
        tensor = init.init_weights(name, target.shape, 1)
    if tensor.shape != target.shape:
        raise ValueError(f"{where}: {name} would get shape {tuple(tensor.shape)} and has {tuple(target.shape)}: its "
                         "weights do not agree with its config")
    tensor = tensor.to(target.device, target.dtype)
    if id(target) in filled and not torch.equal(target, tensor):
        raise ValueError(f"{where}: {name} is tied to another parameter of our model and would get other values")
    filled.add(id(target))
    with torch.no_grad():
        target.copy_(tensor)


def split_by_head(weight: Tensor, n_heads: int) -> tuple[Tensor, ...]:
    r"""Queries, keys and values out of one matrix whose rows are, head after head, the head's q, k and v.

    Args:
        weight: (H * 3 * Dh, D), or a bias (H * 3 * Dh,).
        n_heads: H.
    Returns: three of (H * Dh, D), or (H * Dh,).
    """
    by_head = weight.unflatten(0, (n_heads, 3, -1))
    return tuple(part.flatten(0, 1) for part in by_head.unbind(1))
