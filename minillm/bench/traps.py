r"""The traps of the table of pitfalls, and what is measured in them."""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minillm import tuning
from minillm.bench import domains, tuned
from minillm.bench.domains import STORIES
from minillm.bench.variants import adaptation, harness
from minillm.inference.quantization import int4
from minillm.model.gpt import GPT
from minillm.training.recompute import recomputed_blocks
from minillm.tuning import spectrum

NEW_TOKEN, SCALING, PROMPT_RATE, LENGTHS = len(harness.ALPHABET), 2.0, 0.3, (1, 5, 20)
LINE_FEED = harness.ALPHABET.index("\n")


def lora_of(rank: int, targets: Sequence[str] | None = None) -> tuned.Tune:
    r"""LoRA with alpha = 2 rank, so that the scaling is the same whatever the rank.

    Args:
        rank: of the changes.
        targets: layers; None = all linear ones of the blocks.
    Returns: base -> the model to train.
    """
    return partial(tuning.lora, rank=rank, alpha=SCALING * rank, targets=targets)


def trained(model: nn.Module) -> list[nn.Parameter]:
    r"""The parameters of a model that training changes.

    Args:
        model: any.
    Returns: the parameters.
    """
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def without_chance(model: nn.Module) -> nn.Module:
    r"""A tuned model whose own parts are all zeros.

    Args:
        model: tuned.
    Returns: a copy.
    """
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in trained(other):
            parameter.zero_()
    return other


def block_weights(model: nn.Module) -> dict[str, Tensor]:
    r"""The matrices of a plain model's blocks.

    Args:
        model: with `nn.Linear` layers.
    Returns: name -> (d_out, d_in), detached.
    """
    return {name: layer.weight.detach() for name, layer in model.blocks.named_modules() if isinstance(layer, nn.Linear)}


def with_weights(model: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    r"""A copy of a plain model, each matrix of its blocks changed.

    Args:
        model: with `nn.Linear` layers; it stays as it is.
        change: matrix -> matrix.
    Returns: the copy.
    """
    other = copy.deepcopy(model)
    for weight in block_weights(other).values():
        weight.copy_(change(weight))
    return other


def rounded_model(model: nn.Module, group_size: int = 32) -> nn.Module:
    r"""A plain model whose blocks hold nothing but what 4 bits a number can hold.

    Args:
        model: with `nn.Linear` layers; it stays as it is.
        group_size: numbers that share a step and a lowest value.
    Returns: a copy, its numbers rounded and in float32 again.
    """
    return with_weights(model, lambda weight: int4.restore_int4(*int4.int4_groups(weight, group_size)))


def cut_to_rank(model: nn.Module, rank: int) -> nn.Module:
    r"""A plain model whose matrices are replaced by the nearest ones of low rank.

    Args:
        model: with `nn.Linear` layers; it stays as it is.
        rank: of what is left.
    Returns: a copy.
    """
    return with_weights(model, lambda weight: spectrum.best_change(weight, rank))


def distance(first: nn.Module, second: nn.Module) -> float:
    r"""How far the matrices of two plain models' blocks lie apart.

    Args:
        first: with `nn.Linear` layers.
        second: of the same shape.
    Returns: the length of the difference of all of them.
    """
    pairs = zip(block_weights(first).values(), block_weights(second).values(), strict=True)
    return float(torch.stack([(one - other).norm() for one, other in pairs]).norm())


def length_of(model: nn.Module) -> float:
    r"""How long the matrices of a plain model's blocks are, all their numbers taken as one vector.

    Args:
        model: with `nn.Linear` layers.
    Returns: the length.
    """
    return float(torch.stack([weight.norm() for weight in block_weights(model).values()]).norm())


def with_new_token(model: GPT, seed: int) -> GPT:
    r"""A model with one token more, whose vector is drawn like those of a fresh model.

    Args:
        model: with tied embeddings; it stays as it is.
        seed: of the vector.
    Returns: the larger model, in evaluation mode.
    """
    larger = GPT(replace(model.config, vocab_size=model.config.vocab_size + 1), torch.Generator().manual_seed(seed))
    old, new = model.state_dict(), larger.state_dict()
    for name in ("tok_emb.weight", "lm_head.weight"):
        old[name] = torch.cat([old[name], new[name][-1:]])
    larger.load_state_dict(old)
    return larger.eval()


def marked(token_ids: Tensor) -> Tensor:
    r"""Stories that end with the new token, where they had a line feed.

    Args:
        token_ids: of stories.
    Returns: the same shape.
    """
    return token_ids.masked_fill(token_ids == LINE_FEED, NEW_TOKEN)


def lora_with_embedding(model: GPT) -> nn.Module:
    r"""LoRA, and beside it all token vectors trained, as copies.

    Args:
        model: with tied embeddings; it stays as it is.
    Returns: the model to train.
    """
    made = lora_of(4)(model)
    made.tok_emb = nn.Embedding.from_pretrained(made.tok_emb.weight.detach().clone(), freeze=False)
    made.lm_head.weight = made.tok_emb.weight
    return made


def costs_at(model: nn.Module, windows: Tensor, token_id: int) -> tuple[float, float]:
    r"""What is paid where one token is due, and elsewhere.

    Args:
        model: token ids -> logits.
        windows: (N, T + 1), token ids.
        token_id: the token.
    Returns: nats where it is the target, and the mean at all other places.
    """
    with torch.no_grad():
        costs = F.cross_entropy(model(windows[:, :-1]).transpose(1, 2), windows[:, 1:], reduction="none")
    due = windows[:, 1:] == token_id
    return float(costs[due].mean()), float(costs[~due].mean())


def checkpointed(seed: int) -> dict[str, int]:
    r"""LoRA on a frozen base, and all blocks but the last keep nothing for the backward pass.

    Args:
        seed: of base, parts and text.
    Returns: of the trained tensors of those blocks, how many got a gradient: "reentrant", torch's old way; the same
        with embeddings that "require grad"; "not reentrant", torch's new way; "ours"; and "of", how many there are.
    """
    text = domains.training_text(STORIES, seed=seed)
    batch = next(tuned.windows_of(text, seed))
    counts = {}
    for way in ("reentrant", "require grad", "not reentrant", "ours"):
        model = tuned.tuned_fresh(lora_of(4), adaptation.base_model(seed), seed)
        first = trained(model.blocks[:-1])
        _backward(model, batch, way)
        counts[way] = sum(parameter.grad is not None for parameter in first)
    return {**counts, "of": len(first)}


def _backward(model: nn.Module, batch: tuple[Tensor, Tensor], way: str) -> None:
    if way == "require grad":
        model.tok_emb.register_forward_hook(lambda module, args, out: out.requires_grad_(True))
    if way != "ours":
        for block in model.blocks[:-1]:
            block.forward = partial(checkpoint, block.forward, use_reentrant=way != "not reentrant")
    with warnings.catch_warnings(), recomputed_blocks(model, way == "ours"):
        warnings.simplefilter("ignore")  # the one sign that something is wrong
        F.cross_entropy(model(batch[0]).transpose(1, 2), batch[1]).backward()


def prompt_as_text(
    seed: int,
    steps: int = tuned.STEPS,
    learning_rate: float = PROMPT_RATE,
    lengths: Sequence[int] = LENGTHS,
) -> dict[str, float]:
    r"""The myth that a soft prompt is a text: each vector is replaced by the token that is most like it.

    Args:
        seed: of base, prompts, stories and windows.
        steps: of training.
        learning_rate: the largest one.
        lengths: of prompts; the last one is looked up.
    Returns: cost of stories: "no prompt", "1 vectors" and so on, "nearest tokens"; and "cosine", the mean one of a
        vector and the token most like it.
    """
    base = adaptation.base_model(seed)
    models: dict[str, nn.Module] = {"no prompt": base}
    for length in lengths:
        models[f"{length} vectors"] = model = tuned.tuned_fresh(
            partial(tuning.prompt_tuning, length=length), base, seed)
        tuned.learn(model, domains.training_text(STORIES, seed=seed), seed, learning_rate, steps)
    (vectors,) = (parameter.detach() for parameter in trained(model))
    alike = F.normalize(vectors, dim=1) @ F.normalize(base.tok_emb.weight.detach(), dim=1).T
    models["nearest tokens"] = tuning.prompt_tuning(base, lengths[-1], alike.argmax(1).tolist())
    return {name: domains.cost_of(each, STORIES) for name, each in models.items()} | {
        "cosine": float(alike.amax(1).mean())}
