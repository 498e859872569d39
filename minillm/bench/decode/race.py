r"""The comparison: first what the quicker arithmetic costs in quality, then everyone in turns, so that a busy moment
hits each alike."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from minillm.bench.decode.entrants import ROWS, WEIGHTS, Entrant, own_entrants
from minillm.bench.decode.hugging_face import transformers_entrants
from minillm.bench.decode.llama_cpp import llama_cpp_entrants, llama_cpp_problem
from minillm.bench.paired import paired_speeds
from minillm.bench.results import describe_machine
from minillm.inference.divergence import mean_kl
from minillm.inference.fast.build import kernel_failure
from minillm.inference.roofline import decode_bound, measure_bandwidth
from minillm.pretrained.loading import find_source, load_model, load_tokenizer
from minillm.pretrained.to_hf import to_hf
from minillm.text.corpora import python_docs

# What a token may cost, in nats (KL to float32 on real text), for its speed to count.
GATE = {"fp32": 1e-4, "bf16": 0.01, "int8": 0.03, "int4": 0.05}
PROMPT, LONG_PROMPT = 32, 512
TIMED = ("decode", "prefill", "batch")


def measure_decode(
    source: str = "smollm2",
    weights: Sequence[str] = WEIGHTS,
    rounds: int = 5,
    new_tokens: int = 128,
    quality_tokens: int = 384,
) -> dict[str, Any]:
    r"""Time how fast a model is read and written by us and by the peers.

    Args:
        source: of the model, as `pretrained.load` takes it; GGUF or a directory.
        weights: kinds of ours.
        rounds: in each, everyone has one turn.
        new_tokens: written after each prompt.
        quality_tokens: of real text, on which predictions are compared with those of transformers in float32.
    Returns: plain JSON data: torch, machine, threads, rounds, bandwidth (bytes a second), `notes` (what could not take
        part, and why), and `entrants`, see `contest`.
    Raises:
        ValueError: if a number is less than 1, or the model is not there.
    """
    if rounds < 1 or new_tokens < 2 or quality_tokens < 2:
        raise ValueError(f"rounds={rounds}, new_tokens={new_tokens}, quality_tokens={quality_tokens}: use at least 1 "
                         "round and 2 tokens")
    for kind in weights:
        if kind not in WEIGHTS:
            raise ValueError(f"weights: {kind!r} is none of {[*WEIGHTS]}; use these, with commas between")
    path = find_source(source)
    token_ids = torch.tensor(load_tokenizer(path).encode(python_docs()[:20000]))
    notes = []
    if (problem := kernel_failure()) is not None:
        notes.append(f"without our kernel: {problem}")
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer, exported = load_model(path, "fp32", "cpu"), load_tokenizer(path), Path(folder)
        to_hf(model, tokenizer, exported / "hf")
        entrants = [*transformers_entrants(exported / "hf"), *own_entrants(path, tuple(weights))]
        if (problem := llama_cpp_problem()) is None:
            theirs, said = llama_cpp_entrants(model, tokenizer, path, exported)
            entrants += theirs
            notes += said
        else:
            notes.append(f"without llama.cpp: {problem}")
        rows, bandwidth = contest(entrants, token_ids, rounds, new_tokens, quality_tokens)
    return {"torch": torch.__version__.partition("+")[0], "machine": describe_machine(),
            "threads": torch.get_num_threads(), "rounds": rounds, "prompt": PROMPT, "new_tokens": new_tokens,
            "long_prompt": LONG_PROMPT, "rows": ROWS, "bandwidth": round(bandwidth), "notes": notes,
            "entrants": rows}


def contest(
    entrants: Sequence[Entrant], token_ids: Tensor, rounds: int, new_tokens: int, quality_tokens: int
) -> tuple[list[dict[str, Any]], float]:
    r"""Quality, a round to warm up, then the rounds that count.

    Args:
        entrants: the first is the yardstick of speed, and the judge of quality.
        token_ids: a text, (T,), int64; prompts are cut from it.
        rounds: turns of each.
        new_tokens: written after each prompt.
        quality_tokens: on which predictions are compared.
    Returns: a dictionary for each entrant, and the memory's bandwidth in bytes a second, measured anew in each round
        (median). For each its name, weights and path; `kl` (nats a token from the first) and `passes` the gate;
        `same_tokens`, how many of the greedy ones are the first one's; `decode`, `prefill` and `batch`: tokens a second
        (median), `ratio` to the first (median over the rounds) and all `ratios`; `bound`: tokens a second if each needs
        nothing but one reading of the weights; `of_bound`: the share of it that is reached between two tokens, with the
        bandwidth of the same round (median).
    """
    text = token_ids[:quality_tokens]
    prompts = token_ids[: ROWS * PROMPT].view(ROWS, PROMPT)
    exact, written = entrants[0].logits(text), entrants[0].write(prompts[:1], new_tokens)[0]
    rows: list[dict[str, Any]] = []
    for each in tqdm(entrants, desc="quality", leave=False):
        kl = mean_kl(exact, each.logits(text))
        same = (each.write(prompts[:1], new_tokens)[0] == written).long().cumprod(0).sum()
        rows.append({"name": each.name, "weights": each.weights, "path": each.path, "kl": round(kl, 5),
                     "passes": kl <= GATE.get(each.weights, float("inf")), "same_tokens": int(same)})
    jobs = {  # prompts, new tokens, tokens that count
        "decode": (prompts[:1], new_tokens, new_tokens),
        "first": (prompts[:1], 1, 1),
        "prefill": (token_ids[None, :LONG_PROMPT], 1, LONG_PROMPT),
        "batch": (prompts, new_tokens, ROWS * new_tokens),
    }
    seconds: dict[str, list[list[float]]] = {job: [[] for _ in entrants] for job in jobs}
    bandwidths = []
    for number in tqdm(range(1 + rounds), desc="rounds", leave=False):
        bandwidths += [measure_bandwidth()] if number else []
        for job, (asked, n_new, _) in jobs.items():
            for i, each in enumerate(entrants):
                start = time.perf_counter()
                each.write(asked, n_new)
                if number:
                    seconds[job][i].append(time.perf_counter() - start)
    for i, (each, row) in enumerate(zip(entrants, rows, strict=True)):
        for job in TIMED:
            row[job] = paired_speeds(seconds[job][i], seconds[job][0], jobs[job][2])
        steps = [whole - first for whole, first in zip(seconds["decode"][i], seconds["first"][i], strict=True)]
        bounds = [decode_bound(each.n_bytes, bandwidth) for bandwidth in bandwidths]
        row["bound"] = round(median(bounds), 1)
        row["of_bound"] = round(median((new_tokens - 1) / took / bound
                                       for took, bound in zip(steps, bounds, strict=True)), 3)
    return rows, median(bandwidths)


def decode_text(report: dict[str, Any]) -> str:
    r"""What was measured, as lines to read.

    Args:
        report: from `measure_decode`.
    Returns: the text.
    """
    lines = [f"tokens a second; in brackets the ratio to transformers fp32, median of {report['rounds']} rounds",
             f"{report['machine']}; {report['threads']} threads; torch {report['torch']}; "
             f"memory {report['bandwidth'] / 1e9:.1f} GB/s",
             f"{'':<24}{'decode':>16}{'of the bound':>14}{'prefill ' + str(report['long_prompt']):>18}"
             f"{'batch ' + str(report['rows']):>16}{'KL':>10}"]
    for row in report["entrants"]:
        label = " ".join(part for part in (row["name"], row["weights"], row["path"]) if part)
        speeds = [f"{row[job]['tokens_per_s']:,.0f} ({row[job]['ratio']:.2f})" for job in TIMED]
        late = "" if row["passes"] else "  too far from float32: its speed does not count"
        lines.append(f"{label:<24}{speeds[0]:>16}{row['of_bound']:>14.0%}{speeds[1]:>18}{speeds[2]:>16}"
                     f"{row['kl']:>10.4f}{late}")
    return "\n".join([*lines, *(f"Note: {note}" for note in report["notes"])])
