r"""One step of AdamW: from a gradient to a changed weight."""

import torch
from jaxtyping import Float
from torch import Tensor


def adamw_step(
    param: Float[Tensor, "*shape"],
    grad: Float[Tensor, "*shape"],
    exp_avg: Float[Tensor, "*shape"],
    exp_avg_sq: Float[Tensor, "*shape"],
    step: int,
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    weight_decay: float = 0.1,
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    r"""Move each weight by about one learning rate, against the average of its gradients, and a little towards zero.

    Two running averages are kept for each weight: of its gradient and of the gradient's square. Their quotient, mean
    over root mean square, is near 1 for a weight whose gradients agree and near 0 for one whose gradients cancel out.

    Args:
        param: the weights, any shape, float.
        grad: their gradient, the same shape.
        exp_avg: average of the gradients so far, zeros before the first step.
        exp_avg_sq: average of their squares so far, zeros before the first step.
        step: number of this step, from 1.
        learning_rate: size of a step, at least 0.
        betas: how slowly the two averages forget, each in [0, 1).
        eps: added to the root, after it is corrected; above 0.
        weight_decay: pull towards zero, as a multiple of the learning rate; it does not pass through the averages.
    Returns: new weights, new average of gradients, new average of squares; new tensors.
    Raises:
        ValueError: if step is less than 1.
    Source: Loshchilov and Hutter 2017, Decoupled Weight Decay Regularization, algorithm 2; decay is multiplied by the
        learning rate, as in torch. Kingma and Ba 2014 call the averages m and v.
    Lesson: 08.
    """
    if step < 1:
        raise ValueError(f"step={step}: count steps from 1; at 0 the averages could not be corrected")
    exp_avg = betas[0] * exp_avg + (1 - betas[0]) * grad
    exp_avg_sq = betas[1] * exp_avg_sq + (1 - betas[1]) * grad.square()
    mean = exp_avg / (1 - betas[0] ** step)  # both averages began at zero and are too small at first
    mean_square = exp_avg_sq / (1 - betas[1] ** step)
    decayed = param * (1 - learning_rate * weight_decay)
    return decayed - learning_rate * mean / (torch.sqrt(mean_square) + eps), exp_avg, exp_avg_sq
