r"""The real model of lesson 16 in a few calls: found or not, asked in batches, with heads that can be silenced."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minillm.inference import pooling
from minillm.inference.generate import Processor, generate
from minillm.inference.left_padding import left_pad
from minillm.pretrained import load
from minillm.pretrained.weights_wheel import COMMAND
from minillm.text.chat_template import chat_text


def find_model() -> tuple[Any, Any]:
    r"""SmolLM2 with its tokenizer, in float32 on the CPU; where it is not, a line says how to get it.

    Returns: the model and its tokenizer, or twice None.
    Lesson: 16.
    """
    try:
        return load("smollm2", device="cpu")
    except ValueError as error:
        print(f"No real model here ({error}). The cells that need it say so and are passed over.")
        return None, None


def is_here(model: Any) -> bool:
    r"""Whether a cell can do its work; if not, a line says so.

    Args:
        model: from `find_model`.
    Returns: True if there is a model.
    Lesson: 16.
    """
    if model is None:
        print(f"passed over: the weights of SmolLM2 are not here; get them with {COMMAND}")
    return model is not None


@dataclass(frozen=True)
class Reply:
    r"""What a model wrote after a prompt.

    Args:
        text: without the prompt and the end mark.
        ended: whether the model ended it by itself.
    """

    text: str
    ended: bool


def write_after(
    model: Any, tokenizer: Any, prompts: Sequence[str], max_new_tokens: int, processors: Sequence[Processor] = ()
) -> list[Reply]:
    r"""Let a model write greedily after several prompts at once.

    Args:
        model: in evaluation mode.
        tokenizer: of the model.
        prompts: texts, none empty.
        max_new_tokens: tokens of each answer at most.
        processors: as `generate` takes them.
    Returns: a reply for each prompt.
    Lesson: 16.
    """
    token_ids, padding_mask = left_pad([tokenizer.encode(prompt) for prompt in prompts])
    end = tokenizer.eos_id
    written = generate(model, token_ids, max_new_tokens, temperature=0.0, padding_mask=padding_mask, stop_ids=[end],
                       pad_id=end, processors=processors)[:, token_ids.shape[1] :].tolist()
    return [Reply(tokenizer.decode([i for i in row if i != end]).strip(), end in row) for row in written]


def answers_to(model: Any, tokenizer: Any, talks: Sequence[Sequence[dict[str, str]]], max_new_tokens: int) -> list[str]:
    r"""Let a model answer several talks at once, greedily.

    Args:
        model: in evaluation mode.
        tokenizer: with a chat template.
        talks: messages of each talk, the user's last.
        max_new_tokens: tokens of each answer at most.
    Returns: the answers.
    Lesson: 16.
    """
    prompts = [chat_text(tokenizer, talk, add_generation_prompt=True) for talk in talks]
    return [reply.text for reply in write_after(model, tokenizer, prompts, max_new_tokens)]


def all_but_the_first(hidden: Tensor, padding_mask: Tensor) -> Tensor:
    r"""The mean over all tokens but the first, at which a decoder leaves what it has no use for.

    Args:
        hidden: (B, T, D), float; rows are padded on the right, or not at all.
        padding_mask: (B, T), bool, True = real token.
    Returns: (B, D), dtype of hidden.
    Lesson: 16.
    """
    return pooling.mean_pool(hidden[:, 1:], padding_mask[:, 1:])


@contextmanager
def silent_heads(model: Any, heads: Iterable[tuple[int, int]]) -> Iterator[None]:
    r"""Inside this block some attention heads say nothing; no weight is changed, and nothing is copied.

    Args:
        model: a GPT.
        heads: pairs of a layer and a query head.
    Returns: a context manager.
    Lesson: 16.
    """
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)

    def silence(layer: int) -> Any:
        def before(module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            mixed = inputs[0].unflatten(-1, (model.config.n_heads, -1)).clone()
            mixed[..., by_layer[layer], :] = 0.0
            return (mixed.flatten(-2), *inputs[1:])

        return model.blocks[layer].attn.o_proj.register_forward_pre_hook(before)

    hooks = [silence(layer) for layer in by_layer]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def word_subsets(n_words: int) -> Tensor:
    r"""All ways to keep some of a few words.

    Args:
        n_words: N.
    Returns: (2^N, N), bool; row i keeps the words whose bits are set in i.
    Lesson: 16.
    """
    return (torch.arange(2**n_words)[:, None] >> torch.arange(n_words)) % 2 == 1
