r"""What `train` and `eval` need to know of a corpus: its tokenizer, its batches, and how a model of it is judged."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from minillm.inference import evaluate
from minillm.text import batches, corpora
from minillm.text.bpe import BPETokenizer
from minillm.text.byte_tokenizer import ByteTokenizer
from minillm.text.characters import CharTokenizer
from minillm.text.stories import StoryLanguage
from minillm.text.stories.split import validation_rows
from minillm.text.tokenizers import Tokenizer
from minillm.training.accumulation import MicroBatch

N_LOGITS = 2**26  # at once, so that those of a large vocabulary fit into memory
N_STORIES, N_SAMPLES = 2048, 500  # validation stories to measure on, and stories to let a model tell


class StoryCorpus:
    r"""The story language: fresh stories without end, one a row.

    Args:
        n_stories: validation stories to judge a model on; None = `N_STORIES`.
        n_samples: stories to let it tell; None = `N_SAMPLES`.
    """

    name = "stories"
    digest = ""  # the language is part of the package

    def __init__(self, n_stories: int | None = None, n_samples: int | None = None) -> None:
        self.n_stories, self.n_samples = n_stories or N_STORIES, n_samples or N_SAMPLES
        self.language = StoryLanguage()
        self.tokenizer = self.language.tokenizer
        self.max_seq_len = self.language.max_len - 1

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[MicroBatch]:
        r"""Batches without end; each draws from the generator just when it is asked for."""
        while True:
            yield batches.story_batch(self.language, batch_size, generator)

    def floor(self) -> float:
        r"""The entropy, in nats a token."""
        rows = validation_rows(self.language, 1024)
        n_targets = float((rows[:, 1:] != self.tokenizer.pad_id).sum()) / len(rows)
        return self.language.entropy() / n_targets

    def judge(self, model: Any, generator: torch.Generator) -> dict[str, float]:
        r"""Nats a validation story, the floor, and the share of told stories that are stories."""
        return asdict(evaluate.story_report(
            model, self.language, n_stories=self.n_stories, n_samples=self.n_samples, generator=generator))


class TextCorpus:
    r"""A text: random windows of its first nine tenths; the rest is for validation.

    Args:
        name: where the text is from.
        text: the text.
        tokenizer: `bpe`, `bytes` or `characters`, made for the text here; or a tokenizer.
        vocab_size: for `bpe`.
        seq_len: tokens in a window.
    Raises:
        ValueError: if the tokenizer is unknown or the text too short.
    """

    def __init__(self, name: str, text: str, tokenizer: str | Tokenizer, vocab_size: int, seq_len: int) -> None:
        self.name, self.max_seq_len = name, seq_len
        self.digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        train_text, self.validation_text = corpora.split_text(text)
        makers = {
            "bpe": lambda: BPETokenizer.from_text(train_text, vocab_size),
            "bytes": ByteTokenizer,
            "characters": lambda: CharTokenizer.from_text(text),
        }
        if isinstance(tokenizer, str) and tokenizer not in makers:
            raise ValueError(f"--tokenizer {tokenizer}: use one of {sorted(makers)}")
        self.tokenizer = makers[tokenizer]() if isinstance(tokenizer, str) else tokenizer
        self.token_ids = torch.tensor(self.tokenizer.encode(train_text))

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[MicroBatch]:
        r"""Batches without end; each draws from the generator just when it is asked for."""
        while True:
            yield batches.next_token_batch(self.token_ids, self.max_seq_len, batch_size, generator)

    def floor(self) -> None:
        r"""Nobody knows the entropy of a real text."""
        return None

    def judge(self, model: Any, generator: torch.Generator) -> dict[str, float]:
        r"""The surprise of the validation text."""
        return judge_text(model, self.tokenizer, self.validation_text)


Corpus = StoryCorpus | TextCorpus


def open_corpus(name: str, tokenizer: str | Tokenizer = "bpe", vocab_size: int = 1024, seq_len: int = 128) -> Corpus:
    r"""The corpus of that name.

    Args:
        name: `stories`, `python-docs`, or the path of a UTF-8 file or folder.
        tokenizer: for a text, see `TextCorpus`.
        vocab_size: for a text.
        seq_len: for a text.
    Returns: the corpus.
    Raises:
        ValueError: if there is no such corpus.
    """
    if name == "stories":
        return StoryCorpus()
    return TextCorpus(name, read_corpus(name), tokenizer, vocab_size, seq_len)


def read_corpus(name: str) -> str:
    r"""The text of that name.

    Args:
        name: `python-docs`, or the path of a UTF-8 file or folder.
    Returns: the text.
    Raises:
        ValueError: if there is none.
    """
    if name == "python-docs":
        return corpora.python_docs()
    try:
        return corpora.read_text(name)
    except ValueError as error:
        raise ValueError(f"{error}. Known by name are: stories, python-docs") from error


def judge_text(model: Any, tokenizer: Tokenizer, text: str) -> dict[str, float]:
    r"""The surprise of a text to a model.

    Args:
        model: in evaluation mode.
        tokenizer: of the model.
        text: not empty.
    Returns: nats_per_token, perplexity, bits_per_byte, n_tokens, n_bytes.
    """
    token_ids = tokenizer.encode(text)
    window = min(model.config.max_seq_len, 512)
    rows = max(1, min(16, N_LOGITS // (window * model.config.vocab_size)))
    nats = evaluate.text_token_nats(model, token_ids, window, rows)
    per_token = float(nats.double().mean())
    return {"nats_per_token": per_token, "perplexity": math.exp(per_token),
            "bits_per_byte": evaluate.bits_per_byte(nats, text), "n_tokens": len(token_ids),
            "n_bytes": len(text.encode())}
