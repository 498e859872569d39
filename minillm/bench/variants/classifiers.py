r"""Classification with few labels: an encoder and a decoder of equal size, fresh and pretrained, pooled two ways.

The task: which of six creatures stands in the hero's way? Pretraining reads stories without labels, the encoder by
naming hidden words, the decoder by naming the next one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from minillm.bench.variants import harness
from minillm.bench.variants.harness import Row
from minillm.inference import pooling
from minillm.model.encoder import Encoder
from minillm.model.gpt import GPT
from minillm.text import batches
from minillm.text.corruption import mask_tokens
from minillm.text.stories import StoryLanguage
from minillm.text.stories.grammar import CREATURES
from minillm.text.stories.split import train_rows, validation_rows
from minillm.training.loop import train
from minillm.training.recipe import Recipe

N_LABELLED, N_JUDGED, BATCH_SIZE = (100, 16), 1000, 16
STEPS, PRETRAIN_STEPS = 100, 400
POOLS = {"mean": "mean_pool", "last token": "last_token_pool"}
Reader = tuple[str, str, bool]
READERS: dict[str, Reader] = {
    f"{'pretrained' if trained else 'fresh'} {kind}, {pool}": (kind, pool, trained)
    for trained in (False, True) for kind in ("encoder", "decoder") for pool in POOLS
}


@cache
def labelled_language() -> StoryLanguage:
    r"""The story language, made once."""
    return StoryLanguage()


def creature_labels(rows: Int64[Tensor, "n max_len"]) -> Int64[Tensor, " n"]:
    r"""Which creature each story has.

    Args:
        rows: stories as token ids; each names exactly one of the creatures, twice.
    Returns: the index in CREATURES, (n,), int64.
    """
    names = torch.tensor(labelled_language().tokenizer.encode(" ".join(CREATURES)))
    return (rows[:, :, None] == names).any(dim=1).long().argmax(dim=1)


class PooledClassifier(nn.Module):
    r"""Any body that gives a vector a token, one vector for all of them, and a linear layer; fits `train`.

    Args:
        body: an `Encoder`, or a `GPT`, whose vectors before the head are taken.
        pool: a function of `minillm.inference.pooling`, by name.
        n_classes: N.
        pad_id: of the padding, which nobody looks at.
    """

    def __init__(self, body: nn.Module, pool: str, n_classes: int, pad_id: int = 0):
        super().__init__()
        self.body, self.pool, self.pad_id = body, pool, pad_id
        self.config = body.config
        self.classifier = nn.Linear(body.config.d_model, n_classes)
        nn.init.zeros_(self.classifier.weight)  # at first all classes are equally likely
        nn.init.zeros_(self.classifier.bias)

    def forward(self, token_ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T N"]:
        r"""The logits of the classes.

        Args:
            token_ids: (B, T), int64.
        Returns: (B, T, N), float: the one answer of each text, shown at all of its places, as `train` expects it.
        """
        real = token_ids != self.pad_id
        vectors = (self.body.hidden if isinstance(self.body, GPT) else self.body)(token_ids, real)
        logits = self.classifier(getattr(pooling, self.pool)(vectors, real))
        return logits[:, None].expand(-1, token_ids.shape[1], -1)


class HiddenWordNamer(nn.Module):
    r"""An encoder that names hidden words: each vector is compared with the embeddings, and nothing is added.

    Args:
        encoder: whose weights are trained.
        pad_id: of the padding.
    """

    def __init__(self, encoder: Encoder, pad_id: int = 0):
        super().__init__()
        self.encoder, self.pad_id, self.config = encoder, pad_id, encoder.config

    def forward(self, token_ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        r"""Logits for the word at every place itself.

        Args:
            token_ids: (B, T), int64, some of them the mask symbol.
        Returns: (B, T, V), float.
        """
        return F.linear(self.encoder(token_ids, token_ids != self.pad_id), self.encoder.tok_emb.weight)


def fresh_body(kind: str, seed: int) -> nn.Module:
    r"""An encoder or a decoder of the same size; the last token of the vocabulary is the encoder's mask symbol.

    Args:
        kind: `encoder` or `decoder`.
        seed: of its weights.
    Returns: the body.
    Raises:
        ValueError: if the kind is unknown.
    """
    if kind not in ("encoder", "decoder"):
        raise ValueError(f"kind={kind!r}: use 'encoder' or 'decoder'")
    language = labelled_language()
    config = replace(harness.BASE, vocab_size=language.tokenizer.vocab_size + 1, max_seq_len=language.max_len)
    generator = torch.Generator().manual_seed(seed)
    return Encoder(config, generator=generator) if kind == "encoder" else GPT(config, generator)


def unlabelled_batches(kind: str, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    r"""Fresh stories without end, as the kind's pretraining takes them.

    Args:
        kind: `encoder`: hidden words; `decoder`: next words.
        generator: the source of chance; it is advanced.
    Yields: inputs and targets, (B, T) each, int64.
    """
    language = labelled_language()
    n_words, pad_id = language.tokenizer.vocab_size, language.tokenizer.pad_id
    while True:
        rows = train_rows(language, BATCH_SIZE, generator)
        if kind == "decoder":
            yield batches.shift_rows(rows, pad_id)
        else:
            corrupted, targets = mask_tokens(rows, n_words, n_words, generator)
            padding = rows == pad_id
            # A random word must not be the padding, which the encoder would not look at: hide the word.
            corrupted = corrupted.masked_fill(corrupted == pad_id, n_words)
            yield corrupted.masked_fill(padding, pad_id), targets.masked_fill(padding, batches.IGNORED)


@cache
def pretrained_state(kind: str, seed: int, steps: int = PRETRAIN_STEPS) -> dict[str, Tensor]:
    r"""The weights of a body that has read stories without labels; do not change them in place.

    Args:
        kind: `encoder` or `decoder`.
        seed: of weights and stories.
        steps: of training, 16 stories each.
    Returns: its state.
    """
    body, generator = fresh_body(kind, seed), torch.Generator().manual_seed(seed)
    model = HiddenWordNamer(body) if kind == "encoder" else body
    recipe = harness.small_recipe(steps, 4e-3)
    train(model, unlabelled_batches(kind, generator), recipe, steps=steps, report_every=steps)
    return body.state_dict()


def train_labelled(
    reader: Reader, seed: int, n_labelled: int, steps: int = STEPS, pretrain_steps: int = PRETRAIN_STEPS
) -> PooledClassifier:
    r"""Train one kind of classifier on labelled stories, all its weights.

    Args:
        reader: kind, name of the pool, and whether the body is pretrained; a value of `READERS`.
        seed: of weights, labelled stories and batches; all readers of a seed see the same.
        n_labelled: stories that carry a label.
        steps: of training on them, 16 stories each.
        pretrain_steps: of those that are pretrained.
    Returns: the classifier, in evaluation mode.
    """
    kind, pool, trained = reader
    body = fresh_body(kind, seed)
    if trained:
        body.load_state_dict(pretrained_state(kind, seed, pretrain_steps))
    model = PooledClassifier(body, POOLS[pool], len(CREATURES))
    generator = torch.Generator().manual_seed(seed + 10_000)
    rows = train_rows(labelled_language(), n_labelled, generator)
    targets = torch.full_like(rows, batches.IGNORED)
    targets[:, 0] = creature_labels(rows)  # a label counts once

    def labelled() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            drawn = torch.randint(n_labelled, (BATCH_SIZE,), generator=generator)
            yield rows[drawn], targets[drawn]

    recipe = Recipe(learning_rate=4e-3, warmup_steps=min(20, steps // 4), dtype="fp32")
    train(model, labelled(), recipe, steps=steps, report_every=steps)
    return model


def judged_right(model: PooledClassifier, seed: int = 0) -> float:
    r"""How many unseen stories a classifier sorts right.

    Args:
        model: from `train_labelled`.
        seed: of the stories.
    Returns: a share of 1000.
    """
    rows = validation_rows(labelled_language(), N_JUDGED, seed)
    with torch.inference_mode():
        return (model(rows)[:, 0].argmax(dim=-1) == creature_labels(rows)).double().mean().item()


def measure_reader(reader: Reader, seed: int) -> dict[str, float]:
    r"""Train one kind of classifier with many and with few labels, and judge it on unseen stories.

    Args:
        reader: a value of `READERS`.
        seed: of weights, stories and batches.
    Returns: "right, 100 labels", "right, 16 labels", shares; and "parameters".
    """
    models = {n_labelled: train_labelled(reader, seed, n_labelled) for n_labelled in N_LABELLED}
    shares = {f"right, {n_labelled} labels": judged_right(model, seed) for n_labelled, model in models.items()}
    return shares | {"parameters": sum(weight.numel() for weight in models[N_LABELLED[0]].parameters())}


def classifiers_table(seeds: Sequence[int]) -> list[Row]:
    r"""The table of classifiers.

    Args:
        seeds: runs of each reader.
    Returns: a row a reader.
    """
    return harness.run_table("classifiers", READERS, seeds, measure_reader)
