r"""AdamW over a whole model, and which weights it pulls towards zero."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minillm.layers import paths
from minillm.training import adamw


def decay_groups(model: nn.Module) -> tuple[list[str], list[str]]:
    r"""Sort a model's trained parameters: those that weight decay pulls towards zero, and those it leaves alone.

    Matrices decay. Norms and biases do not: they are few, and zero is no natural value for them. Embeddings do not: the
    row of a rare token hardly ever gets a gradient, and decay would slowly erase it. A tied lm_head is an embedding.

    Args:
        model: any module; what needs no gradient in it is in neither list.
    Returns: names with decay and names without, each in the order of `model.named_parameters()`.
    Source: Radford et al. 2018 (GPT), section 4.1, for biases and norms. Leaving embeddings out is our choice.
    Lesson: 08.
    """
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decays = {name: p.dim() >= 2 and id(p) not in embeddings for name, p in trained}
    return [name for name in decays if decays[name]], [name for name in decays if not decays[name]]


def make_adamw(
    decayed: Sequence[Tensor], plain: Sequence[Tensor], betas: tuple[float, float], weight_decay: float
) -> "torch.optim.AdamW | PlainAdamW":
    r"""An AdamW with two groups: torch's, in one fused kernel where there is one; lesson 08's own on the plain path.

    Args:
        decayed: parameters with weight decay.
        plain: parameters without.
        betas: how slowly the averages of the gradient and of its square forget, each in [0, 1).
        weight_decay: pull towards zero per step, as a multiple of the learning rate.
    Returns: the optimizer; its learning rate is set at each step.
    Source: Loshchilov and Hutter 2017, Decoupled Weight Decay Regularization, algorithm 2.
    Lesson: 08.
    """
    groups = [
        {"params": list(parameters), "weight_decay": decay}
        for parameters, decay in ((decayed, weight_decay), (plain, 0.0)) if parameters
    ]
    if not paths.use_fused():
        return PlainAdamW(groups, betas)
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in (*decayed, *plain))
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=fused)


class PlainAdamW:
    r"""AdamW by `adamw.adamw_step`, with as much of torch's interface as the training loop uses.

    Attributes: `param_groups`, dictionaries with `params`, `weight_decay` and `lr`; `state`, for each parameter `step`,
    `exp_avg` and `exp_avg_sq`, empty before the first step.

    Args:
        groups: dictionaries with `params` and `weight_decay`.
        betas: as in `adamw_step`.
    Source: as `adamw_step`.
    Lesson: 08.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], betas: tuple[float, float]):
        self.param_groups = [{"lr": 0.0, **group} for group in groups]
        self.state: dict[Tensor, dict[str, Tensor]] = {p: {} for group in groups for p in group["params"]}
        self.betas = betas

    @torch.no_grad()
    def step(self) -> None:
        r"""Change all parameters by the gradients in their `.grad`."""
        for group in self.param_groups:
            for param in group["params"]:
                memory = self.state[param]
                if not memory:
                    zeros = torch.zeros_like(param.data)
                    memory |= {"step": torch.zeros(()), "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
                memory["step"] = memory["step"] + 1
                param.data[...], memory["exp_avg"], memory["exp_avg_sq"] = adamw.adamw_step(
                    param.data, param.grad, memory["exp_avg"], memory["exp_avg_sq"], int(memory["step"]), group["lr"],
                    betas=self.betas, weight_decay=group["weight_decay"])
