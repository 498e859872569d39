r"""A mixture of experts: many FFNs, of which each token uses a few.

    x ----> router ----> the top_k largest logits ----> softmax over these: the weights
    |                              |                              |
    +----> expert 3, expert 5 <----+                              |
                   +----> weighted sum of the chosen <------------+
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minillm.layers import recorder, softmax
from minillm.layers.ffn import GLU


def top_k_route(
    router_logits: Float[Tensor, "*batch E"], top_k: int
) -> tuple[Float[Tensor, "*batch K"], Int[Tensor, "*batch K"]]:
    r"""Choose the experts with the largest logits, and share one token out among them.

    A softmax over all E logits, cut to the chosen and divided by its sum, gives the same weights.

    Args:
        router_logits: how well each expert suits each token, (..., E), float.
        top_k: K, experts a token, 1..E.
    Returns: weights (..., K), dtype of router_logits, positive, with sum 1; and the experts' numbers (..., K), int64.
        The largest comes first.
    Raises:
        ValueError: if there are fewer than top_k experts.
    Source: Jiang et al. 2024 (Mixtral of Experts), section 2.1; Shazeer et al. 2017, equations 3 and 5, without noise.
    Lesson: 06.
    """
    n_experts = router_logits.shape[-1]
    if not 1 <= top_k <= n_experts:
        raise ValueError(f"top_k={top_k}: use 1..{n_experts}, there are {n_experts} experts")
    chosen, indices = router_logits.topk(top_k, dim=-1)
    return softmax.softmax(chosen), indices


def load_balance_loss(
    router_logits: Float[Tensor, "*batch E"],
    indices: Int[Tensor, "*batch K"],
    counted: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, ""]:
    r"""E times the sum over experts of (share of the choices it got) * (mean probability the router gave it).

    1 if all experts are used alike, E / K if all tokens choose the same K and nothing else gets any probability. The
    shares are counts and have no gradient; it reaches the router through the probabilities.

    Args:
        router_logits: (..., E), float.
        indices: the experts that were chosen, (..., K), int64.
        counted: bool, True = a token that counts, False = padding; None = all count. At least one must count.
    Returns: a scalar, dtype of router_logits.
    Source: Fedus et al. 2021 (Switch Transformers), equations 4 to 6, without the coefficient. For K > 1 the shares are
        divided by K, so that they add up to 1; other code leaves that out and is balanced at K.
    Lesson: 06.
    """
    n_experts = router_logits.shape[-1]
    if counted is not None:
        router_logits, indices = router_logits[counted], indices[counted]
    shares = torch.bincount(indices.flatten(), minlength=n_experts) / indices.numel()
    mean_probability = softmax.softmax(router_logits).reshape(-1, n_experts).mean(dim=0)
    return n_experts * (shares.to(router_logits.dtype) * mean_probability).sum()


def expert_capacity(n_tokens: int, n_experts: int, top_k: int, capacity_factor: float) -> int:
    r"""How many tokens one expert takes: its fair share of the choices, times a factor, rounded up.

    Args:
        n_tokens: N, tokens in the batch.
        n_experts: E.
        top_k: K, experts a token.
        capacity_factor: 1.0 = exactly the fair share.
    Returns: the number.
    Source: Fedus et al. 2021 (Switch Transformers), equation 3; times K, since each token chooses K times.
    Lesson: 06.
    """
    return math.ceil(capacity_factor * n_tokens * top_k / n_experts)


def within_capacity(indices: Int[Tensor, "N K"], n_experts: int, capacity: int) -> Bool[Tensor, "N K"]:
    r"""Which choices are served when each expert takes the first `capacity` that come and drops the rest.

    Tokens queue in their order, so whether a token is served depends on no later token. (Serving the first choices of
    all tokens before any second choice, as GShard does, lets a later token push an earlier one out: the future leaks.)

    Args:
        indices: the experts each token chose, (N, K), int64.
        n_experts: E.
        capacity: tokens that one expert takes.
    Returns: (N, K), bool, True = served.
    Source: Fedus et al. 2021 (Switch Transformers), section 2.2.
    Lesson: 06.
    """
    queue = indices.flatten()
    # waiting[i, e]: how many of the first i + 1 choices are for expert e
    waiting = (queue[:, None] == torch.arange(n_experts, device=indices.device)).cumsum(dim=0)
    place = waiting.gather(1, queue[:, None])
    return (place <= capacity).view_as(indices)


class MoE(nn.Module):
    r"""In place of one FFN, E of them (GLUs): a linear router sends each token to K.

    It reports to the recorder: `router_logits` (..., E), `router_indices` (..., K), and, while choices are dropped,
    `served` (N, K). A training loop makes the balancing loss of them (`minillm.training.balancing`).

    Args:
        d_model: D.
        n_experts: E.
        top_k: K, experts a token.
        d_ff: F, hidden width of one expert.
        activation: name of the activation on the experts' gates.
        capacity_factor: in training, an expert takes this many times its fair share, and of what comes on top the
            answer is 0 (the residual connection carries such a token on). None = all are served, as always outside of
            training: there a token's answer must not depend on what else is in the batch.
    Raises:
        ValueError: if top_k or capacity_factor is out of range.
    Source: Jiang et al. 2024 (Mixtral of Experts), section 2.1; capacity: Fedus et al. 2021, section 2.2.
    Lesson: 06.
    """

    def __init__(
        self,
        d_model: int,
        n_experts: int,
        top_k: int,
        d_ff: int,
        activation: str = "silu",
        capacity_factor: float | None = None,
    ):
        super().__init__()
        if not 1 <= top_k <= n_experts:
            raise ValueError(f"top_k={top_k}: use 1..{n_experts}, there are n_experts={n_experts}")
        if capacity_factor is not None and capacity_factor <= 0:
            raise ValueError(f"capacity_factor={capacity_factor}: use a number above 0, or None to drop nothing")
        self.top_k, self.capacity_factor = top_k, capacity_factor
        self.router = nn.Linear(d_model, n_experts, bias=False)
        self.experts = nn.ModuleList(GLU(d_model, d_ff, activation) for _ in range(n_experts))

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        router_logits = self.router(x)
        weights, indices = top_k_route(router_logits, self.top_k)
        recorder.report("router_logits", router_logits)
        recorder.report("router_indices", indices)
        tokens = x.reshape(-1, x.shape[-1])
        weights, queue = weights.reshape(-1, self.top_k), indices.reshape(-1, self.top_k)
        served = torch.ones_like(queue, dtype=torch.bool)
        if self.training and self.capacity_factor is not None:
            n_experts = len(self.experts)
            capacity = expert_capacity(len(queue), n_experts, self.top_k, self.capacity_factor)
            served = within_capacity(queue, n_experts, capacity)
            recorder.report("served", served)
        out = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            # An expert that nobody chose runs on no tokens at all, and so its gradients are 0, not missing.
            row, choice = torch.where((queue == number) & served)
            out.index_add_(0, row, weights[row, choice, None] * expert(tokens[row]))
        return out.view_as(x)
