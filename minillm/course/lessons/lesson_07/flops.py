r"""Operations of a token."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from minillm.config import ModelConfig
from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.draw import Draw
from minillm.course.lessons.lesson_07.sizes import EXACT_COUNT, attention_count, block_by, ffn_count, small_configs
from minillm.model.gpt import GPT


def flops_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    for config in small_configs(draw):
        yield (config, draw.size(5, 40)), {}


def flops_step_by_step(config: ModelConfig, kv_len: int) -> dict[str, int]:
    r"""Go through the matrices of a built model, and through the products of every head with every key."""
    model = GPT(config)
    linears = [module for block in model.blocks for module in block.modules() if isinstance(module, nn.Linear)]
    multiply_and_add, products = 2, 0
    for _layer in range(config.n_layers):
        for _head in range(config.n_heads):
            products += kv_len * config.head_dim  # q times each key
            products += kv_len * config.head_dim  # weight times each value
    parts = {
        "matrices": multiply_and_add * sum(linear.weight.numel() for linear in linears),
        "attention": multiply_and_add * products,
        "lm_head": multiply_and_add * model.lm_head.weight.numel(),
    }
    return {**parts, "total": sum(parts.values())}


def bare(c: ModelConfig) -> int:
    r"""The matrices of one block, without biases."""
    return attention_count(c, biases=lambda c, q, kv: 0) + ffn_count(c, biases=lambda c: 0)


def flops_by(
    matrices: Callable[[ModelConfig], int] = lambda c: 2 * c.n_layers * bare(c),
    attention: Callable[[ModelConfig, int], int] = lambda c, n: 4 * c.n_layers * n * c.n_heads * c.head_dim,
    head: Callable[[ModelConfig], int] = lambda c: 2 * c.vocab_size * c.d_model,
) -> Callable[[ModelConfig, int], dict[str, int]]:
    r"""A count of operations in which one thing is counted in another way."""

    def wrong(config: ModelConfig, kv_len: int) -> dict[str, int]:
        parts = {"matrices": matrices(config), "attention": attention(config, kv_len), "lm_head": head(config)}
        return {**parts, "total": sum(parts.values())}

    return wrong


FLOPS_PER_TOKEN = Exercise(
    id="model.counting.flops_per_token",
    lesson="07",
    title="Operations of a token",
    task="Count the floating-point operations of one token's forward pass, for a token that attends to `kv_len` keys: "
    "a dictionary with `matrices` (of all blocks), `attention` (scores and weighted sum), `lm_head` and `total`. A "
    "multiplication and the addition that follows it are two operations. Biases, norms, activations and softmax are "
    "left out. Your `block_parameters` helps, but mind the biases: `dataclasses.replace(config, ...)` makes a "
    "configuration without them.",
    difficulty=3,
    minutes=15,
    points=4,
    seed=77,
    hints=(
        "A vector times a matrix uses every weight of the matrix once: one multiplication, one addition. So how many "
        "operations is that for a matrix of a * b weights?",
        "The lm_head is such a matrix too, tied or not: a tied matrix is stored once, but used.",
        "Attention, for one head in one layer: a dot product of head_dim features with each of kv_len keys, then "
        "kv_len values of head_dim features each, weighted and added up.",
        "Sharing keys among query heads saves memory, not these products: each query head still meets every key.",
    ),
    cases=flops_cases,
    oracle=flops_step_by_step,
    other_style=flops_by(),
    tolerance=EXACT_COUNT,
    mistakes=(
        Mistake(
            "one operation a weight",
            flops_by(
                lambda c: c.n_layers * bare(c),
                lambda c, n: 2 * c.n_layers * n * c.n_heads * c.head_dim,
                lambda c: c.vocab_size * c.d_model,
            ),
            "You count multiplications only (MACs). A FLOP count has two operations for each weight: a multiplication "
            "and an addition. Papers mix the two up, so say which you mean.",
        ),
        Mistake(
            "biases counted as matrices",
            flops_by(matrices=lambda c: 2 * c.n_layers * (block_by()(c)["attention"] + block_by()(c)["ffn"])),
            "You count the biases like weights of a matrix. A bias costs a single addition, and is left out here: "
            "count a configuration without biases.",
        ),
        Mistake(
            "norms counted",
            flops_by(matrices=lambda c: 2 * c.n_layers * (bare(c) + block_by()(c)["norm"])),
            "You count the norms' weights among the matrices. They multiply feature by feature, which is small, and is "
            "left out here.",
        ),
        Mistake(
            "one block",
            flops_by(matrices=lambda c: 2 * bare(c), attention=lambda c, n: 4 * n * c.n_heads * c.head_dim),
            "You count one block. A token goes through all n_layers of them.",
        ),
        Mistake(
            "scores only",
            flops_by(attention=lambda c, n: 2 * c.n_layers * n * c.n_heads * c.head_dim),
            "Attention is only half there: after the dot products with the keys come the values, weighted and added "
            "up, and that costs as much again.",
        ),
        Mistake(
            "fewer heads because keys are shared",
            flops_by(attention=lambda c, n: 4 * c.n_layers * n * c.n_kv_heads * c.head_dim),
            "You multiply by n_kv_heads. Shared keys are stored once, but each of the n_heads query heads takes its "
            "own dot products with them.",
        ),
        Mistake(
            "d_model for the heads' width",
            flops_by(attention=lambda c, n: 4 * c.n_layers * n * c.d_model),
            "You take d_model for n_heads * head_dim. They are equal in many models, but need not be.",
        ),
        Mistake(
            "every query counted",
            flops_by(attention=lambda c, n: 4 * c.n_layers * n * n * c.n_heads * c.head_dim),
            "You count kv_len queries as well. This is the cost of *one* token, so one query; a whole sequence has "
            "that many queries, which makes it quadratic.",
        ),
        Mistake(
            "tied head left out",
            flops_by(head=lambda c: 0 if c.tie_embeddings else 2 * c.vocab_size * c.d_model),
            "A tied head costs no memory of its own, but it is still multiplied with every token's vector: count its "
            "operations.",
        ),
        Mistake(
            "embedding counted too",
            flops_by(head=lambda c: 4 * c.vocab_size * c.d_model),
            "You count the token embedding as a multiplication. It is a look-up: a row is read, nothing is multiplied.",
        ),
    ),
)
