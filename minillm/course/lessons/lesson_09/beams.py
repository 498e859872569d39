r"""One step of beam search."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw
from minillm.course.lessons.lesson_09.keeping import FORBIDDEN, Case

Step = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor, Tensor]]


def beam_cases(draw: Draw) -> Iterator[Case]:
    first = torch.tensor([[[0.6, 0.3, 0.1], [0.05, 0.05, 0.9]]]).log()
    yield (torch.tensor([[0.6, 0.4]]).log(), first + torch.tensor([[[0.0, 0.01, 0.02], [0.0, 0.01, 0.0]]]), 2), {}
    for dtype in (torch.float32, torch.float64):
        n_rows, n_parents = draw.sizes(2, 2, 4)
        vocab_size = draw.size(6, 9)
        scores = -draw.normal(n_rows, n_parents, dtype=dtype).abs()
        log_probs = draw.normal(n_rows, n_parents, vocab_size, dtype=dtype, scale=1.5).log_softmax(-1)
        for n_beams in (n_parents, n_parents + draw.size(1, 2), 1):
            yield (scores, log_probs, n_beams), {}
    start = torch.tensor([[0.0, FORBIDDEN, FORBIDDEN]]).expand(2, 3).clone()  # before the first step there is one beam
    yield (start, draw.normal(2, 3, 7).log_softmax(-1), 3), {}
    some = draw.normal(1, 2, 8).log_softmax(-1).index_fill(-1, torch.tensor([1, 4]), FORBIDDEN)
    yield (-draw.normal(1, 2).abs(), some, 3), {}
    yield (-draw.normal(1, 2).abs(), draw.normal(1, 2, 4).log_softmax(-1), 0), {}  # to be refused
    yield (-draw.normal(1, 2).abs(), draw.normal(1, 2, 4).log_softmax(-1), 9), {}


def in_order(scores: Tensor, log_probs: Tensor, n_beams: int) -> tuple[Tensor, Tensor, Tensor]:
    n_rows, n_parents, vocab_size = log_probs.shape
    if not 1 <= n_beams <= n_parents * vocab_size:
        raise ValueError("1 to K * V")
    total = scores.unsqueeze(-1) + log_probs
    best = []
    for row in total:
        ways = [(float(row[k, v]), k, v) for k in range(n_parents) for v in range(vocab_size)]
        best.append(sorted(ways, key=lambda way: -way[0])[:n_beams])
    found, parents, token_ids = (torch.tensor([[way[part] for way in row] for row in best]) for part in range(3))
    return found.to(total.dtype), parents, token_ids


def beam_by_beam(scores: Tensor, log_probs: Tensor, n_beams: int) -> tuple[Tensor, Tensor, Tensor]:
    r"""Another right way: the best of each beam first, then the best of these."""
    n_parents, vocab_size = log_probs.shape[1:]
    if n_beams < 1 or n_beams > n_parents * vocab_size:
        raise ValueError("1 to K * V")
    few, token_ids = (scores[..., None] + log_probs).sort(dim=-1, descending=True)
    few, token_ids = few[..., :n_beams], token_ids[..., :n_beams]
    best, place = few.flatten(1).sort(dim=-1, descending=True)
    best, place = best[:, :n_beams], place[:, :n_beams]
    return best, place // few.shape[-1], token_ids.flatten(1).gather(1, place)


def ranked_by(
    rule: Callable[[Tensor, Tensor], Tensor], largest: bool = True, split: Callable[..., tuple] | None = None
) -> Step:
    r"""A step with another rule for the score of a way, or another way to read the place in the flat list."""

    def wrong(scores: Tensor, log_probs: Tensor, n_beams: int) -> tuple[Tensor, Tensor, Tensor]:
        n_parents, vocab_size = log_probs.shape[1:]
        if not 1 <= n_beams <= n_parents * vocab_size:
            raise ValueError("1 to K * V")
        best, place = rule(scores[..., None], log_probs).flatten(1).topk(n_beams, largest=largest)
        parents, token_ids = split(place, n_parents, vocab_size) if split else (place // vocab_size, place % vocab_size)
        return best, parents, token_ids

    return wrong


def own_best(scores: Tensor, log_probs: Tensor, n_beams: int) -> tuple[Tensor, Tensor, Tensor]:
    if not 1 <= n_beams <= log_probs[0].numel():
        raise ValueError("1 to K * V")
    best, token_ids = log_probs.max(dim=-1)
    parents = torch.arange(scores.shape[1]).expand_as(token_ids)
    return (scores + best)[:, :n_beams], parents[:, :n_beams], token_ids[:, :n_beams]


BEAM_STEP = Exercise(
    id="inference.beam.beam_step",
    lesson="09",
    title="A step of beam search",
    task="There are K beams a row, with log-probabilities `scores`, and for each the log-probabilities of its next "
    "token. Of all K * V ways to go on, find the `n_beams` likeliest, the best first. Return three tensors "
    "(B, n_beams): their scores, the beams they grow from (`parents`, 0 to K - 1), and their new tokens (0 to V - 1). "
    "An n_beams below 1 or above K * V must be refused with a ValueError.",
    difficulty=2,
    minutes=15,
    points=5,
    seed=97,
    hints=(
        "What is the log-probability of a beam *and* a next token? Probabilities multiply, so their logarithms ...",
        "Broadcast (B, K, 1) with (B, K, V). All ways of a row compete with each other, so flatten them to (B, K * V) "
        "before you take the best.",
        "Place 17 in the flat list of a row, with V = 5, is token 2 of beam 3. Which two operations on whole numbers "
        "say so?",
    ),
    cases=beam_cases,
    oracle=in_order,
    other_style=beam_by_beam,
    tolerance=Tolerance(1e-5, 1e-6, "one sum of two numbers"),
    mistakes=(
        Mistake(
            "scores so far forgotten",
            ranked_by(lambda scores, log_probs: log_probs + 0 * scores.nan_to_num(neginf=0.0)),
            "You rank by the next token's log-probability alone. What the beam has cost so far is forgotten, and the "
            "search takes the most self-assured beam in place of the likeliest text.",
        ),
        Mistake(
            "each beam its own best",
            own_best,
            "Each beam goes on with its own best token: that is K greedy searches side by side. All ways of all beams "
            "compete; a good beam may have several children and a bad one none.",
        ),
        Mistake(
            "parents and tokens exchanged",
            ranked_by(torch.add, split=lambda place, n_parents, vocab_size: (place % vocab_size, place // vocab_size)),
            "Parents and tokens are exchanged: in a flat list of K rows of V entries, the row is place // V, and the "
            "entry in it place % V.",
        ),
        Mistake(
            "divided by the number of beams",
            ranked_by(torch.add, split=lambda place, n_parents, vocab_size: (place // n_parents, place % n_parents)),
            "You divide the flat place by the number of beams. Each beam has V entries in the list, so V is what you "
            "divide by.",
        ),
        Mistake(
            "flat places as tokens",
            ranked_by(torch.add, split=lambda place, n_parents, vocab_size: (place // vocab_size, place)),
            "Your tokens are places in the flat list of K * V ways, so they run beyond the vocabulary. Take the rest "
            "of the division by V.",
        ),
        Mistake(
            "logarithms multiplied",
            ranked_by(lambda scores, log_probs: scores.nan_to_num(neginf=-1e9) * log_probs),
            "You multiply log-probabilities. Both are negative, so the worst ways come out on top. Probabilities "
            "multiply; their logarithms add.",
        ),
        Mistake(
            "a probability added",
            ranked_by(lambda scores, log_probs: scores + log_probs.exp()),
            "You add a probability to a log-probability. Both terms must be logarithms.",
        ),
        Mistake(
            "probabilities returned",
            ranked_by(lambda scores, log_probs: (scores + log_probs).exp()),
            "Your scores are probabilities. The order is right, but after a few dozen tokens they all underflow to 0: "
            "stay with logarithms.",
        ),
        Mistake(
            "the worst",
            ranked_by(torch.add, largest=False),
            "You keep the least likely ways. topk takes the largest unless you ask for others.",
        ),
    ),
)
