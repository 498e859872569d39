r"""A model that learns to look at the first token when it has nothing to look for: an attention sink, in seconds."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from minillm.config import Init, Mlp, ModelConfig, Rope
from minillm.model.gpt import GPT
from minillm.training.loop import train
from minillm.training.recipe import Recipe

# Ids 0 to N_TRIGGERS - 1 are triggers, then ordinary signs, and last the token that begins every text.
N_SIGNS, N_TRIGGERS = 32, 4
BEGIN = N_SIGNS
TRAIN_LEN = 24
MODEL = ModelConfig(
    vocab_size=N_SIGNS + 1, max_seq_len=1024, d_model=64, n_layers=1, n_heads=1, n_kv_heads=1, head_dim=64,
    ffn=Mlp(1), position=Rope(), init=Init(0.3, 0.15, "zero"))  # an FFN of one feature: it mends nothing


def trigger_texts(n_texts: int, seq_len: int, seed: int, habits_seed: int = 0) -> Tensor:
    r"""Texts in which a sign depends on the one before it, except after a trigger: there, the one before is repeated.

        a c f T f g ...     after the trigger T stands f again

    A head that looks at the sign before the trigger knows what follows. After any other sign it has nothing to say.

    Args:
        n_texts: how many.
        seq_len: tokens of each, the begin token included, at least 2.
        seed: of the texts.
        habits_seed: of the table that says which sign follows which.
    Returns: token ids, (n_texts, seq_len) int64.
    """
    habits = torch.softmax(3 * torch.randn(N_SIGNS, N_SIGNS, generator=torch.Generator().manual_seed(habits_seed)), -1)
    generator = torch.Generator().manual_seed(seed)
    columns = [torch.full((n_texts,), BEGIN), torch.randint(N_TRIGGERS, N_SIGNS, (n_texts,), generator=generator)]
    while len(columns) < seq_len:
        last = columns[-1]
        follows = torch.multinomial(habits[last], 1, generator=generator)[:, 0]
        columns.append(torch.where(last < N_TRIGGERS, columns[-2], follows))
    return torch.stack(columns, dim=1)


def train_sink_model(seed: int, steps: int = 300) -> GPT:
    r"""Train a GPT of one layer and one head on trigger texts of TRAIN_LEN tokens.

    Args:
        seed: of weights, texts and habits.
        steps: of training.
    Returns: the model, in evaluation mode.
    """
    model = GPT(MODEL, torch.Generator().manual_seed(seed))
    texts = trigger_texts(4000, TRAIN_LEN + 1, seed, habits_seed=seed)
    generator = torch.Generator().manual_seed(seed)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            rows = texts[torch.randint(len(texts), (32,), generator=generator)]
            yield rows[:, :-1], rows[:, 1:].contiguous()

    recipe = Recipe(learning_rate=1e-2, warmup_steps=20, decay_share=0.5, betas=(0.9, 0.999), weight_decay=0.01,
                    max_norm=math.inf, dtype="fp32")  # unclipped: triggers are rare, and all there is to learn from
    train(model, batches(), recipe, steps=steps, report_every=steps)
    return model


def streamed_nats(model: GPT, texts: Tensor, cache: list | None) -> Tensor:
    r"""The surprise at each token when texts go through the model one token at a time.

    Args:
        model: from `train_sink_model`.
        texts: (n_texts, T) int64.
        cache: fresh layer caches for n_texts rows; None = all in one pass, as with a cache that keeps everything.
    Returns: nats of tokens 1 to T - 1, (n_texts, T - 1).
    """
    pieces = [texts[:, :-1]] if cache is None else texts[:, :-1].split(1, dim=1)
    with torch.inference_mode():
        logits = torch.cat([model(piece, cache=cache) for piece in pieces], dim=1)
        nats = F.cross_entropy(logits.transpose(1, 2), texts[:, 1:], reduction="none")
    return nats.clone()
