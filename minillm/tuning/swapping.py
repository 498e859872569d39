r"""Other modules in the place of some, in a copy of the model that shares its weights: the base stays as it is."""

from collections.abc import Callable
from copy import deepcopy

from torch import nn

Replace = Callable[[str, nn.Module], nn.Module | None]


def swapped(model: nn.Module, replace: Replace) -> nn.Module:
    r"""A model of the same tensors, frozen, in which some modules are others.

    No number is copied: both models read the same memory, so the second costs only what the new modules hold, and
    what is done to the base's numbers in place is done to both.

    Args:
        model: any; not changed.
        replace: called with each module's name and the module, in the copy; gives what belongs in its place, which may
            hold the module itself, or None where it stays.
    Returns: the copy, in the model's mode; its parameters need no gradients, those of the new modules do as they wish.
    Raises:
        ValueError: if nothing was replaced.
    Lesson: 13.
    """
    shared = {id(each): nn.Parameter(each.detach(), requires_grad=False) for each in model.parameters()}
    shared |= {id(each): each for each in model.buffers()}
    twin = deepcopy(model, shared)
    found = [(name, other) for name, module in list(twin.named_modules())
             if name and (other := replace(name, module)) is not None]
    if not found:
        raise ValueError(f"model={type(model).__name__}: none of its modules is one to replace; look at "
                         "model.named_modules()")
    for name, other in found:
        parent, _, own_name = name.rpartition(".")
        setattr(twin.get_submodule(parent), own_name, other)
    return twin.train(model.training)
