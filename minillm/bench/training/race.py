r"""The comparison: all contestants in turns on the same batches, so that a busy moment hits each alike."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any

import torch
from tqdm.auto import tqdm

from minillm.bench.paired import paired_speeds
from minillm.bench.results import describe_machine
from minillm.bench.training.ceiling import peak_gflops, product_flops
from minillm.bench.training.contestants import Contestant, make_contestants
from minillm.bench.training.settings import SETTINGS, Setting
from minillm.bench.variants import harness
from minillm.model.gpt import GPT
from minillm.text import batches
from minillm.training.freed_memory import keep_freed_memory
from minillm.training.schedule import warmup_factor

LEARNING_RATE, WARMUP_STEPS = 1e-3, 20


def measure(
    settings: Sequence[str] = tuple(SETTINGS),
    rounds: int = 9,
    steps: int = 3,
    *,
    compile: bool = True,
    dtype: str = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    r"""Time training steps of the peer and of our engine.

    Args:
        settings: names from `SETTINGS`.
        rounds: in each, everyone has one turn.
        steps: training steps of one turn.
        compile: whether to time the compiled ones too; compiling takes minutes.
        dtype: what our engine computes in; `auto` as `minillm train`.
        seed: of weights and batches.
    Returns: plain JSON data: torch, machine, threads, rounds, steps, `peak_gflops` of a large matrix product by dtype,
        and `settings`, from `race`.
    Raises:
        ValueError: if a setting is unknown, or rounds or steps is less than 1.
    """
    for name in settings:
        if name not in SETTINGS:
            raise ValueError(f"settings: {name!r} is none of {sorted(SETTINGS)}; use these, with commas between")
    keep_freed_memory()  # as `minillm train` does; the peer has the good of it too
    measured = [{"name": name, **race(SETTINGS[name], rounds, steps, compile, dtype, seed)} for name in settings]
    dtypes = {_format_of(row) for setting in measured for row in setting["contestants"]}
    return {"torch": torch.__version__.partition("+")[0], "machine": describe_machine(),
            "threads": torch.get_num_threads(), "rounds": rounds, "steps": steps, "peak_gflops": peak_gflops(dtypes),
            "settings": measured}


def race(setting: Setting, rounds: int, steps: int, compile: bool, dtype: str, seed: int) -> dict[str, Any]:
    r"""One setting: a round to warm up, then the rounds that count.

    Args:
        setting: sizes.
        rounds: as in `measure`.
        steps: as in `measure`.
        compile: as in `measure`.
        dtype: as in `measure`.
        seed: as in `measure`.
    Returns: sizes, `n_params`, `tokens` that each has trained on in the end, and `contestants`: `step_ms` (median),
        `tokens_per_s` and `gflops` (from it; of the matrix products that are needed), `ratio` to the first one (median
        over the rounds; `ratios` has them all), `first_step_s` (with compiling), `loss_before`, and `loss`, the mean of
        the last turn: the loss at equal tokens.
    Raises:
        ValueError: if rounds or steps is less than 1.
    """
    if rounds < 1 or steps < 1:
        raise ValueError(f"rounds={rounds} and steps={steps}: use at least 1 of each")
    generator = torch.Generator().manual_seed(seed)
    model = GPT(setting.config(len(harness.ALPHABET)), generator)
    with ExitStack() as entered:
        contestants = make_contestants(model, compile, dtype, entered)
        seconds: list[list[float]] = [[] for _ in contestants]
        losses: list[list[float]] = [[] for _ in contestants]
        first = []
        for number in tqdm(range(1 + rounds), desc="rounds", leave=False):
            turn = [batches.next_token_batch(harness.text_ids("train"), setting.seq_len, setting.batch_size, generator)
                    for _ in range(steps)]
            for i, contestant in enumerate(contestants):
                taken, mean_losses = _take_turn(contestant, turn, number * steps)
                losses[i] += mean_losses
                if number == 0:
                    first.append(taken[0])
                else:
                    seconds[i].append(sum(taken) / steps)
    n_tokens = setting.batch_size * setting.seq_len
    flops = product_flops(setting, model.config.vocab_size)
    rows = [
        {"name": each.name, "dtype": each.dtype, "compiled": each.compile, "kernel": each.kernel,
         "step_ms": round(1000 * median(own), 2), "gflops": round(1e-9 * flops / median(own), 2),
         **paired_speeds(own, seconds[0], n_tokens),
         "first_step_s": round(start, 3), "loss_before": round(loss[0], 4),
         "loss": round(sum(loss[-steps:]) / steps, 4)}
        for each, own, start, loss in zip(contestants, seconds, first, losses, strict=True)]
    return {**vars(setting), "vocab_size": model.config.vocab_size,
            "n_params": sum(p.numel() for p in model.parameters()), "tokens": n_tokens * steps * (1 + rounds),
            "contestants": rows}


def _take_turn(contestant: Contestant, turn: Sequence[Any], done: int) -> tuple[list[float], list[float]]:
    seconds, losses = [], []
    for index, batch in enumerate(turn):
        learning_rate = LEARNING_RATE * warmup_factor(done + index, WARMUP_STEPS)
        start = time.perf_counter()
        losses.append(float(contestant.step(batch, learning_rate)))
        seconds.append(time.perf_counter() - start)
    return seconds, losses


def _format_of(row: dict[str, Any]) -> str:
    return row["dtype"].removesuffix(" autocast")


def race_text(report: dict[str, Any]) -> str:
    r"""What was measured, as lines to read.

    Args:
        report: from `measure`.
    Returns: the text.
    """
    lines = ["training, tokens a second; in brackets the ratio to nanogpt in fp32, eager, and the range over "
             f"{report['rounds']} rounds",
             f"{report['machine']}; {report['threads']} threads; torch {report['torch']}",
             "a large matrix product: "
             + ", ".join(f"{peak:,.0f} GFLOP/s in {dtype}" for dtype, peak in report["peak_gflops"].items())]
    for setting in report["settings"]:
        lines.append("{name}: {n_layers} layers, {n_heads} heads, {d_model} wide, T {seq_len}, batch {batch_size}, "
                     "{n_params:,} parameters".format(**setting))
        for row in setting["contestants"]:
            marks = [mark for mark in ("compiled", "kernel") if row[mark]]
            name = ", ".join([f"{row['name']} {row['dtype']}", *marks])
            share = row["gflops"] / report["peak_gflops"][_format_of(row)]
            spread = f"{min(row['ratios']):.2f}..{max(row['ratios']):.2f}"
            lines.append(f"  {name:<32} {row['tokens_per_s']:>9,.0f}  ({row['ratio']:.2f}x, {spread})  "
                         f"{row['gflops']:,.0f} GFLOP/s, {share:.0%} of that  loss "
                         f"{row['loss_before']:.3f} -> {row['loss']:.3f} after {setting['tokens']:,} tokens")
    return "\n".join(lines)
