r"""Data parallelism: every rank has the whole model and its own rows of the batch; gradients are added up.

The famous mistake is to average the ranks' gradients. Each of those belongs to a *mean* loss, over as many targets as
that rank happened to have; the mean of the means gives a token more weight the fewer others there are on its rank. Here
each rank's loss is weighed by its targets, so that the sum over ranks is the gradient of the whole batch.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn

from minillm.training import accumulation, collectives
from minillm.training.accumulation import MicroBatch
from minillm.training.wires import Wire, process_wire


def own_rows(token_ids: Int[Tensor, "B T"], targets: Int[Tensor, "B T"], rank: int, n_ranks: int) -> MicroBatch:
    r"""The rows of a batch that a rank works on: every n-th, beginning with its own number.

    Args:
        token_ids: (B, T), int64.
        targets: (B, T), int64.
        rank: whose rows.
        n_ranks: how many share the batch.
    Returns: token ids and targets, (b, T); b differs by at most 1 between ranks.
    Raises:
        ValueError: if there are fewer rows than ranks.
    Lesson: 08.
    """
    if len(token_ids) < n_ranks:
        raise ValueError(f"token_ids: {len(token_ids)} rows for {n_ranks} ranks; give each at least one")
    return token_ids[rank::n_ranks], targets[rank::n_ranks]


def weighed_loss(
    model: Callable[[Tensor], Tensor], token_ids: Int[Tensor, "b T"], targets: Int[Tensor, "b T"], wire: Wire
) -> Float[Tensor, ""]:
    r"""This rank's part of the mean loss over the targets of all ranks: the parts add up to the mean.

    Args:
        model: token ids -> logits.
        token_ids: this rank's, (b, T), int64.
        targets: this rank's, (b, T), int64; -100 = not counted.
        wire: to the other ranks; they tell each other how many targets they have.
    Returns: a scalar, with a graph; 0 on a rank without targets.
    Raises:
        ValueError: if no rank has a target.
    Lesson: 08.
    """
    count = accumulation.count_targets(targets)
    with wire.counting("counts"):
        n_targets = collectives.all_reduce(torch.tensor([count], dtype=torch.float64), wire).item()
    if n_targets == 0:
        raise ValueError("targets: every target of every rank is -100; use batches with text in them")
    if count == 0:
        return 0.0 * model(token_ids).float().sum()  # its mean would be 0 / 0, and the others wait for its gradient
    return accumulation.batch_loss(model, token_ids, targets) * (count / n_targets)


def flat_gradient(model: nn.Module, loss: Float[Tensor, ""]) -> Float[Tensor, "N"]:
    r"""The gradient for all parameters as one vector, in the order of model.parameters().

    Args:
        model: with float parameters.
        loss: a scalar with a graph.
    Returns: (N,); zeros for parameters that the loss does not depend on.
    Lesson: 08.
    """
    grads = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
    return torch.cat([grad.reshape(-1) for grad in grads])


def data_parallel_gradient(
    model: nn.Module, token_ids: Int[Tensor, "b T"], targets: Int[Tensor, "b T"], wire: Wire
) -> tuple[Float[Tensor, ""], Float[Tensor, "N"]]:
    r"""Loss and gradient of the whole batch, of which each rank has only some rows.

    Args:
        model: the same on all ranks, with float32 parameters.
        token_ids: this rank's rows, (b, T), int64.
        targets: this rank's rows, (b, T), int64.
        wire: to the other ranks.
    Returns: the mean loss over the targets of all ranks (detached), and its gradient as one vector; the same on all
        ranks, to the last bit.
    Source: Li et al. 2020, PyTorch Distributed, section 3.2, which averages over ranks; here targets weigh alike.
    Lesson: 08.
    """
    part = weighed_loss(model, token_ids, targets, wire)
    own = flat_gradient(model, part)
    with wire.counting("gradients"):
        gradient = collectives.all_reduce(own, wire)
    with wire.counting("losses"):
        loss = collectives.all_reduce(part.detach(), wire)
    return loss, gradient


def nccl_all_reduce(rank: int, n_ranks: int, n_numbers: int) -> tuple[bool, int]:
    r"""Add up a vector that lies on GPUs twice, with our ring and with NCCL's own all-reduce, and compare.

    Args:
        rank: of this process; it takes the GPU of that number.
        n_ranks: how many processes, at most as many as there are GPUs.
        n_numbers: length of the vector.
    Returns: whether both agree, and the bytes that this rank of our ring has sent.
    Lesson: 08.
    """
    torch.cuda.set_device(rank)
    group = dist.new_group(backend="nccl", device_id=torch.device("cuda", rank))
    x = torch.arange(n_numbers, dtype=torch.float32, device=f"cuda:{rank}") * (rank + 1)
    wire = process_wire(rank, n_ranks)  # gloo: the vector has to leave the GPU for it
    ours = collectives.all_reduce(x.cpu(), wire)
    dist.all_reduce(x, group=group)
    agree = torch.allclose(x.cpu(), ours, rtol=1e-6)
    dist.destroy_process_group(group)
    return agree, wire.sent.total()
