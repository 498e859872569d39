r"""What nanoGPT computes in a training step, written anew: the yardstick that the speed of training is given in.

Only the arithmetic is followed, operation for operation: a projection to queries, keys and values together, torch's
fused attention, LayerNorm, exact GELU, a tied head, a clipped gradient, an AdamW that takes the tensors one by one.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillm.config import ModelConfig
from minillm.model.gpt import GPT


class PeerBlock(nn.Module):
    r"""A pre-norm block: `mix` moves information between tokens, `think` works on each token alone.

    Args:
        config: sizes; `attention.qkv_bias` says whether the matrices have biases.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        width, bias = config.d_model, config.attention.qkv_bias
        self.n_heads = config.n_heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias), nn.Linear(width, width, bias)
        self.up, self.down = nn.Linear(width, config.ffn.d_ff, bias), nn.Linear(config.ffn.d_ff, width, bias)

    def mix(self, x: Tensor) -> Tensor:
        r"""Causal attention, (B, T, D) -> (B, T, D)."""
        q, k, v = (part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(seen.transpose(1, 2).flatten(2))

    def think(self, x: Tensor) -> Tensor:
        r"""The FFN, (B, T, D) -> (B, T, D)."""
        return self.down(F.gelu(self.up(x)))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mix(self.norm_1(x))
        return x + self.think(self.norm_2(x))


class PeerGPT(nn.Module):
    r"""The peer's model, which begins as a copy of one of ours: the same function with the same weights.

    Args:
        model: ours, with LayerNorm, learned positions, a GELU `Mlp` and a tied head; it stays as it is.
    Source: Karpathy 2022, nanoGPT, its README and settings for a character model on a CPU.
    """

    def __init__(self, model: GPT):
        super().__init__()
        config = model.config
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.places = nn.Embedding(config.max_seq_len, config.d_model)
        self.blocks = nn.ModuleList(PeerBlock(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.d_model)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        self.load_state_dict(_renamed(model.state_dict(), config.n_layers))

    def forward(self, token_ids: Tensor, targets: Tensor) -> Tensor:
        x = self.tokens(token_ids) + self.places(torch.arange(token_ids.shape[1], device=token_ids.device))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)


def peer_optimizer(model: nn.Module, weight_decay: float, betas: tuple[float, float]) -> torch.optim.AdamW:
    r"""The peer's AdamW: every tensor by itself, all matrices decay, embeddings among them.

    Args:
        model: the peer's.
        weight_decay: of the matrices.
        betas: of AdamW.
    Returns: the optimizer; its learning rate is set at each step.
    """
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=betas)


def peer_step(
    loss_of: Callable[[Tensor, Tensor], Tensor],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor],
    learning_rate: float,
    autocast: bool = False,
) -> Tensor:
    r"""One step of the peer's training; model and optimizer are changed in place.

    Args:
        loss_of: the model, perhaps compiled: (token_ids, targets) -> loss.
        model: the peer's.
        optimizer: from `peer_optimizer`.
        batch: token_ids and targets, (B, T) each, int64.
        learning_rate: for this step.
        autocast: whether torch may compute in bf16 where it thinks fit.
    Returns: the loss before the step, a scalar.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = loss_of(*batch)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def _renamed(ours: dict[str, Tensor], n_layers: int) -> dict[str, Tensor]:
    theirs = {"tokens.weight": ours["tok_emb.weight"], "places.weight": ours["pos_emb.weight"],
              "head.weight": ours["tok_emb.weight"]}
    parts = {"norm_1": ("attn_norm",), "norm_2": ("ffn_norm",), "out": ("attn.o_proj",), "up": ("ffn.up_proj",),
             "down": ("ffn.down_proj",), "qkv": ("attn.q_proj", "attn.k_proj", "attn.v_proj")}
    for kind in ("weight", "bias"):
        for layer in range(n_layers):
            for name, sources in parts.items():
                found = [ours[key] for s in sources if (key := f"blocks.{layer}.{s}.{kind}") in ours]
                theirs |= {f"blocks.{layer}.{name}.{kind}": torch.cat(found)} if found else {}
        theirs[f"norm.{kind}"] = ours[f"final_norm.{kind}"]
    return theirs
