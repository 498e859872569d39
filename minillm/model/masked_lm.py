r"""BERT as a whole: an encoder, and what is put on top of it."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minillm.config import ModelConfig
from minillm.layers.activations import activation
from minillm.model import init
from minillm.model.builders import build_head, build_norm
from minillm.model.encoder import Encoder


class MaskedLM(nn.Module):
    r"""An encoder that names the tokens that were hidden from it.

    Its head transforms each vector once more (linear, activation, norm) and compares it with every token's embedding.

    Args:
        config: as for `Encoder`; `ends.head_bias` gives every token of the vocabulary a bias.
        n_token_types: as for `Encoder`.
        activation_name: of the head.
        generator: source of randomness for the fresh weights; None means torch's global one.
    Source: Devlin et al. 2019, BERT, section 3.1 (task 1); the head is that of their published code.
    Lesson: 07.
    """

    def __init__(
        self,
        config: ModelConfig,
        n_token_types: int = 0,
        activation_name: str = "gelu",
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, n_token_types, generator=generator)
        self.head_proj = nn.Linear(config.d_model, config.d_model)
        self.head_act = activation(activation_name)
        self.head_norm = build_norm(config)
        self.lm_head = build_head(config, self.encoder.tok_emb)
        init.fill_fresh(self, config, generator)

    def forward(
        self,
        token_ids: Int[Tensor, "B T"],
        padding_mask: Bool[Tensor, "B T"] | None = None,
        positions: Int[Tensor, "*b T"] | None = None,
        token_types: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T V"]:
        r"""Logits for the token at every position itself, not for the next one.

        Args:
            token_ids: (B, T), int64, some of them a mask symbol.
            padding_mask: (B, T), bool, True = real token; None = all real.
            positions: (T,) or (B, T), int64; None = cumsum(padding_mask) - 1.
            token_types: (B, T), int64; None = all of segment 0.
        Returns: (B, T, V), float.
        """
        x = self.encoder(token_ids, padding_mask, positions, token_types)
        return self.lm_head(self.head_norm(self.head_act(self.head_proj(x))))


class SequenceClassifier(nn.Module):
    r"""An encoder that sorts whole texts into classes.

    Args:
        config: as for `Encoder`.
        n_classes: N.
        n_token_types: as for `Encoder`.
        generator: source of randomness for the fresh weights; None means torch's global one.
    Source: Devlin et al. 2019, BERT, section 4.1.
    Lesson: 07.
    """

    def __init__(
        self,
        config: ModelConfig,
        n_classes: int,
        n_token_types: int = 0,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, n_token_types, pooler=True, generator=generator)
        self.classifier = nn.Linear(config.d_model, n_classes)
        init.fill_fresh(self.classifier, config, generator)

    def forward(
        self,
        token_ids: Int[Tensor, "B T"],
        padding_mask: Bool[Tensor, "B T"] | None = None,
        positions: Int[Tensor, "*b T"] | None = None,
        token_types: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B N"]:
        r"""The logits of the classes.

        Args:
            token_ids: (B, T), int64; the first column holds the token that stands for all.
            padding_mask: (B, T), bool, True = real token; None = all real.
            positions: (T,) or (B, T), int64; None = cumsum(padding_mask) - 1.
            token_types: (B, T), int64; None = all of segment 0.
        Returns: (B, N), float.
        """
        vectors = self.encoder(token_ids, padding_mask, positions, token_types)
        return self.classifier(self.encoder.pooled(vectors))
