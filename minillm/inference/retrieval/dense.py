r"""A dense index: texts as vectors, and those near to a question's."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from minillm.inference import pooling
from minillm.layers.recorder import record

Pool = Callable[[Tensor, Tensor], Tensor]


def embed_texts(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    pool: Pool | None = None,
    layer: int | None = None,
    batch_size: int = 8,
) -> Float[Tensor, "N D"]:
    r"""A vector for each text: what the model holds of its tokens, pooled.

    Args:
        model: a GPT, in evaluation mode.
        tokenizer: of the model.
        texts: N texts, none empty; what exceeds the model's max_seq_len is left out.
        pool: (hidden (B, T, D), padding_mask (B, T)) -> (B, D); None = `pooling.mean_pool`.
        layer: after how many blocks the residual stream is read; None = after the last, and the final norm.
        batch_size: texts that go through the model at once; those of like length go together.
    Returns: (N, D), float32, on the CPU.
    Raises:
        ValueError: if a text has no token, or there is no such layer.
    Source: Reimers and Gurevych 2019, section 3, for the pooling; there the model was trained for it.
    Lesson: 16.
    """
    pool = pool or pooling.mean_pool
    rows = [tokenizer.encode(text)[: model.config.max_seq_len] for text in texts]
    if not all(rows):
        raise ValueError(f"texts[{next(i for i, row in enumerate(rows) if not row)}] has no token; leave it out")
    if layer is not None and not 0 <= layer <= model.config.n_layers:
        raise ValueError(f"layer={layer}: use 0 to n_layers={model.config.n_layers}, or None")
    device = next(model.parameters()).device
    vectors = torch.zeros(len(rows), model.config.d_model)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        longest = len(rows[places[-1]])
        token_ids = torch.tensor([rows[i] + [0] * (longest - len(rows[i])) for i in places], device=device)
        padding_mask = torch.tensor([[t < len(rows[i]) for t in range(longest)] for i in places], device=device)
        with record("residual") as tape, torch.no_grad():
            hidden = model.hidden(token_ids, padding_mask)
        if layer is not None:
            hidden = tape["residual"][layer]
        vectors[places] = pool(hidden, padding_mask).float().cpu()
    return vectors


class DenseIndex:
    r"""Vectors of texts, to be asked which are near to another.

    The mean of all is taken off first: what all texts share tells none from another, and with a model that was never
    trained to compare texts it is most of the vector.

    Args:
        vectors: (N, D), float, from `embed_texts`; at least one.
    Source: Mu and Viswanath 2018, All-but-the-Top, for the mean.
    Lesson: 16.
    """

    def __init__(self, vectors: Float[Tensor, "N D"]) -> None:
        self.mean = vectors.mean(dim=0)
        self.unit_vectors = F.normalize(vectors - self.mean, dim=-1)

    def scores(self, vector: Float[Tensor, "D"]) -> Float[Tensor, "N"]:
        r"""The cosine between a vector and each text's, both without the mean.

        Args:
            vector: (D,), of a question.
        Returns: (N,), float, -1 to 1.
        """
        return self.unit_vectors @ F.normalize(vector - self.mean, dim=-1)
