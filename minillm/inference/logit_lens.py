r"""The logit lens: what would the model say if it stopped after this layer?"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minillm.layers.recorder import record
from minillm.model.stack import scaled_head


def lens_logits(model: Any, token_ids: Int[Tensor, "B T"]) -> Float[Tensor, "L1 B T V"]:
    r"""Read the residual stream after every layer as the model reads it after the last: by final norm and head.

    Args:
        model: a GPT, in evaluation mode.
        token_ids: (B, T), int64.
    Returns: (L + 1, B, T, V), float: first from the embedding alone, then after each block; the last are the model's
        own logits.
    Source: nostalgebraist 2020, interpreting GPT: the logit lens.
    Lesson: 16.
    """
    with record("residual") as tape, torch.no_grad():
        model(token_ids)
    with torch.no_grad():
        head = scaled_head(model.config, model.lm_head)
        return torch.stack([head(model.final_norm(residual)) for residual in tape["residual"]])


@dataclass(frozen=True, eq=False)
class LensTops:
    r"""What each layer would say at each place.

    Args:
        texts: (L + 1) x T x k: the likeliest tokens, as text, best first.
        probabilities: (L + 1, T, k), float32: theirs.
        ranks: (L + 1, T), int64: how many tokens the layer holds likelier than the one that the last layer would say.
        nats: (L + 1, T), float32: surprise, by each layer, at the token that the last layer would say.
    Lesson: 16.
    """

    texts: list[list[list[str]]]
    probabilities: Tensor
    ranks: Tensor
    nats: Tensor


def lens_tops(model: Any, tokenizer: Any, token_ids: Int[Tensor, "1 T"], top_k: int = 5) -> LensTops:
    r"""What each layer would say at each place of a text, and how likely it holds what the model says in the end.

    Args:
        model: a GPT, in evaluation mode.
        tokenizer: of the model.
        token_ids: (1, T), int64.
        top_k: likeliest tokens that are kept.
    Returns: the table.
    Lesson: 16.
    """
    log_probs = lens_logits(model, token_ids)[:, 0].float().log_softmax(dim=-1)
    best = log_probs.topk(top_k, dim=-1)
    final = best.indices[-1, :, 0]
    of_final = log_probs.gather(-1, final[None, :, None].expand(len(log_probs), -1, 1))
    texts = [[[tokenizer.decode([token_id]) for token_id in place] for place in layer]
             for layer in best.indices.tolist()]
    return LensTops(texts, best.values.exp(), (log_probs > of_final).sum(dim=-1), -of_final[..., 0])
