r"""A mixture of experts asks for one more term in the loss: the one that keeps its router fair."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from minillm.layers import loss, moe, recorder
from minillm.training import accumulation


def has_experts(model: nn.Module) -> bool:
    r"""Whether there is a mixture of experts in the model.

    Args:
        model: any module.
    Returns: True if there is.
    Lesson: 06.
    """
    return any(isinstance(module, moe.MoE) for module in model.modules())


def balanced_loss(
    model: nn.Module, token_ids: Int[Tensor, "B T"], targets: Int[Tensor, "B T"], coefficient: float
) -> Float[Tensor, ""]:
    r"""The batch's loss, and the balancing loss of its experts: coefficient * mean over layers.

    A module keeps nothing for it: what the routers said is got by listening to the forward pass.

    Args:
        model: token ids -> logits, with at least one mixture of experts in it.
        token_ids: (B, T), int64.
        targets: (B, T), int64; -100 = counts in neither of the two.
        coefficient: what balance is worth; adds at least about this much to the loss, and up to E / K times it.
    Returns: a scalar.
    Source: Fedus et al. 2021 (Switch Transformers), section 2.2, who add the layers up and use 0.01 for each.
    Lesson: 06.
    """
    with recorder.record("router_logits", "router_indices", keep_graph=True) as tape:
        mean_loss = accumulation.batch_loss(model, token_ids, targets)
    routed = list(zip(tape["router_logits"], tape["router_indices"], strict=True))
    counted = targets != loss.IGNORED
    unfair = [moe.load_balance_loss(logits.float(), indices, counted) for logits, indices in routed]
    return mean_loss + coefficient * sum(unfair) / len(unfair)
