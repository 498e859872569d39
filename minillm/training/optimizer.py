r"""AdamW, and which weights it pulls towards zero."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def decay_groups(model: nn.Module) -> tuple[list[str], list[str]]:
    r"""Sort a model's parameters: those that weight decay pulls towards zero, and those it leaves alone.

    Matrices decay. Norms and biases do not: they are few, and zero is no natural value for them. Embeddings do not: the
    row of a rare token hardly ever gets a gradient, and decay would slowly erase it. A tied lm_head is an embedding.

    Args:
        model: any module.
    Returns: names with decay and names without, each in the order of `model.named_parameters()`.
    Source: Radford et al. 2018 (GPT), section 4.1, for biases and norms. Leaving embeddings out is our choice.
    Lesson: 08.
    """
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    decays = {name: p.dim() >= 2 and id(p) not in embeddings for name, p in model.named_parameters()}
    return [name for name in decays if decays[name]], [name for name in decays if not decays[name]]


def make_adamw(
    decayed: Sequence[Tensor], plain: Sequence[Tensor], betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    r"""An AdamW with two groups; where torch has it, all of a step is one fused kernel.

    Args:
        decayed: parameters with weight decay.
        plain: parameters without.
        betas: how slowly the averages of the gradient and of its square forget, each in [0, 1).
        weight_decay: pull towards zero per step, as a multiple of the learning rate.
    Returns: the optimizer; its learning rate is set at each step.
    Source: Loshchilov and Hutter 2017, Decoupled Weight Decay Regularization, algorithm 2.
    Lesson: 08.
    """
    parameters = [*decayed, *plain]
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)
    groups = [
        {"params": list(decayed), "weight_decay": weight_decay},
        {"params": list(plain), "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0, betas=betas, fused=fused)
