r"""Parity: is the number of ones among 16 bits odd? Answered at once, and with the running parities written down."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from minillm.bench.variants import harness
from minillm.bench.variants.harness import Row
from minillm.config import Init, Mlp, ModelConfig, Rope
from minillm.inference import generate
from minillm.model.gpt import GPT
from minillm.text.batches import IGNORED
from minillm.training.loop import train
from minillm.training.recipe import Recipe

N_BITS, EQUALS, DOT = 16, 2, 3  # the symbols 0 and 1 stand for themselves
STEPS, BATCH_SIZE = 400, 32
CONFIG = ModelConfig(
    vocab_size=4, max_seq_len=128, d_model=64, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=32, ffn=Mlp(64),
    position=Rope(base=100.0), tie_embeddings=False, init=Init(1.0, 0.1, "plain"))
WAYS = {
    "at once": "at once",
    "at once, graded on every prefix": "graded",
    "after 15 dots": "dots",
    "after 15 written steps": "steps",
}


def running_parities(bits: Int64[Tensor, "B N"]) -> Int64[Tensor, "B N"]:
    r"""For each bit whether the ones up to it are odd in number.

    Args:
        bits: 0 or 1, (B, N), int64.
    Returns: (B, N), int64; the last column is the answer.
    """
    return bits.cumsum(1) % 2


def asked(bits: Int64[Tensor, "B N"], way: str) -> Int64[Tensor, "B T"]:
    r"""The question as a model reads it: the bits, "=", and where it answers after dots, the dots.

    Args:
        bits: (B, N), int64.
        way: a value of `WAYS`.
    Returns: (B, N + 1), or (B, 2N) with dots; int64.
    """
    n_rows, n_bits = bits.shape
    parts = [bits, torch.full((n_rows, 1), EQUALS)]
    if way == "dots":
        parts.append(torch.full((n_rows, n_bits - 1), DOT))
    return torch.cat(parts, dim=1)


def parity_batch(
    way: str, batch_size: int, generator: torch.Generator
) -> tuple[Int64[Tensor, "B T"], Int64[Tensor, "B T"]]:
    r"""Fresh bits, and what a model that answers in this way is to say about them.

    Args:
        way: `at once`: the answer after "="; `graded`: also, at each bit, the parity up to it; `dots`: the answer after
            "=" and as many dots as there could be steps; `steps`: all running parities, each written before the next.
        batch_size: B.
        generator: the source of chance; it is advanced.
    Returns: inputs and targets, (B, T) each, int64; targets are -100 where nothing is asked.
    Raises:
        ValueError: if there is no such way.
    """
    if way not in WAYS.values():
        raise ValueError(f"way={way!r}: use one of {list(WAYS.values())}")
    bits = torch.randint(2, (batch_size, N_BITS), generator=generator)
    parities = running_parities(bits)
    inputs = asked(bits, way)
    if way == "steps":
        inputs = torch.cat([inputs, parities[:, :-1]], dim=1)
    targets = torch.full_like(inputs, IGNORED)
    targets[:, -1] = parities[:, -1]
    if way == "graded":
        targets[:, :N_BITS] = parities
    elif way == "steps":
        targets[:, N_BITS:] = parities
    return inputs, targets


def train_parity(way: str, seed: int, steps: int = STEPS) -> GPT:
    r"""Train a small decoder to answer in one way.

    Args:
        way: a value of `WAYS`.
        seed: of weights and bits.
        steps: of training, 32 questions each.
    Returns: the model, in evaluation mode.
    """
    generator = torch.Generator().manual_seed(seed)
    model = GPT(CONFIG, generator)

    def questions() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield parity_batch(way, BATCH_SIZE, generator)

    recipe = Recipe(learning_rate=3e-3, warmup_steps=min(30, steps // 4), dtype="fp32")
    train(model, questions(), recipe, steps=steps, report_every=steps)
    return model


def answered_right(model: GPT, bits: Int64[Tensor, "B N"], way: str) -> Bool[Tensor, " B"]:
    r"""Ask a model; it always takes the likeliest symbol, and reads its own steps, right or wrong.

    Args:
        model: from `train_parity`.
        bits: (B, N), int64.
        way: in which it was trained to answer.
    Returns: (B,), bool.
    """
    written = generate.generate(model, asked(bits, way), bits.shape[1] if way == "steps" else 1, temperature=0.0)
    return written[:, -1] == running_parities(bits)[:, -1]


def follows_a_wrong_step(model: GPT, bits: Int64[Tensor, "B N"], place: int) -> Bool[Tensor, " B"]:
    r"""Write one false step among the right ones, let the model go on, and see whether its answer turns with it.

    Args:
        model: trained with `steps`.
        bits: (B, N), int64.
        place: of the false step, from 0 to N - 2.
    Returns: (B,), bool: True where the answer is the false one that follows from the false step.
    """
    parities = running_parities(bits)
    misled = parities[:, : place + 1].clone()
    misled[:, place] = 1 - misled[:, place]
    prompt = torch.cat([asked(bits, "steps"), misled], dim=1)
    written = generate.generate(model, prompt, bits.shape[1] - place - 1, temperature=0.0)
    return written[:, -1] == 1 - parities[:, -1]


def measure_parity(way: str, seed: int, steps: int = STEPS, n_questions: int = 1000) -> dict[str, float]:
    r"""Train a model to answer in one way, and ask it fresh questions.

    Args:
        way: a value of `WAYS`.
        seed: of weights and bits.
        steps: of training.
        n_questions: to measure on.
    Returns: "right", a share; with written steps also "right at 12 bits" and "right at 24 bits", lengths on which it
        was not trained, and "follows a wrong step", the share of answers that turn with a false fifth step.
    """
    model = train_parity(way, seed, steps)
    generator = torch.Generator().manual_seed(seed + 10_000)
    shares = {}
    for n_bits in (N_BITS, 12, 24) if way == "steps" else (N_BITS,):
        bits = torch.randint(2, (n_questions, n_bits), generator=generator)
        name = "right" if n_bits == N_BITS else f"right at {n_bits} bits"
        shares[name] = answered_right(model, bits, way).double().mean().item()
    if way == "steps":
        bits = torch.randint(2, (n_questions, N_BITS), generator=generator)
        shares["follows a wrong step"] = follows_a_wrong_step(model, bits, 4).double().mean().item()
    return shares


def parity_table(seeds: Sequence[int]) -> list[Row]:
    r"""The table of parity.

    Args:
        seeds: runs of each way.
    Returns: a row a way of answering.
    """
    return harness.run_table("parity", WAYS, seeds, measure_parity)
