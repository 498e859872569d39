r"""What a cache weighs."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from minillm.config import AttentionOptions, Mla, Mlp, ModelConfig, Rope
from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.draw import Draw

Case = tuple[tuple[Any, ...], dict[str, Any]]
Count = Callable[..., int]


def config_with(
    draw: Draw, n_groups: int, attention: AttentionOptions | Mla | None = None, layers: int = 0
) -> ModelConfig:
    r"""Random sizes, n_groups query heads to a key head; head_dim is not d_model / n_heads."""
    n_kv_heads = draw.size(2, 4)
    return ModelConfig(
        vocab_size=50, max_seq_len=512, d_model=32, n_layers=layers or draw.size(3, 6), n_heads=n_kv_heads * n_groups,
        n_kv_heads=n_kv_heads, head_dim=2 * draw.size(6, 9), ffn=Mlp(64), attention=attention or AttentionOptions(),
        position=Rope())


def weight_cases(draw: Draw) -> Iterator[Case]:
    yield (config_with(draw, 1), 1), {}
    yield (config_with(draw, draw.size(2, 4)), draw.size(100, 400), draw.size(2, 5), torch.float16), {}
    yield (config_with(draw, 3), draw.size(10, 40)), {"dtype": torch.float64}
    yield (config_with(draw, 2), draw.size(10, 40)), {"batch_size": 3}
    yield (config_with(draw, 1, Mla(kv_rank=draw.size(20, 30), rope_dim=4)), draw.size(10, 40), 2, torch.bfloat16), {}
    window = draw.size(8, 16)
    yield (config_with(draw, 2, AttentionOptions(window=window)), draw.size(20, 90), 2), {}
    yield (config_with(draw, 2, AttentionOptions(window=window)), draw.size(2, 6)), {}
    mixed = AttentionOptions(window=(window, None, 3, window))
    yield (config_with(draw, 2, mixed, 4), draw.size(20, 90), 2, torch.bfloat16), {}
    yield (config_with(draw, 1), -draw.size(1, 4)), {}  # to be refused


def shelf_of_arrays(config: ModelConfig, kv_len: int, batch_size: int = 1, dtype: Any = None) -> int:
    r"""Make what is stored, on a device that stores nothing, and ask it for its size."""
    if kv_len < 0:
        raise ValueError(f"kv_len={kv_len}: at least 0")
    total = 0
    for layer in range(config.n_layers):
        shapes = [(kv_len, config.n_kv_heads, config.head_dim)] * 2
        if isinstance(config.attention, Mla):
            shapes = [(kv_len, config.attention.kv_rank), (kv_len, config.attention.rope_dim)]
        for n_tokens, *rest in shapes:
            array = torch.empty(batch_size, n_tokens, *rest, dtype=dtype or torch.float32, device="meta")
            if isinstance(config.attention, AttentionOptions):
                array = array[:, -(config.attention.window_of(layer) or kv_len) :]
            total += array.numel() * array.element_size()
    return total


def weight_with(
    heads: Callable[[ModelConfig], int] = lambda c: c.n_kv_heads * c.head_dim,
    latent: Callable[[ModelConfig], int] = lambda c: c.attention.kv_rank + c.attention.rope_dim,
    tokens: Callable[[int, int | None], int] = lambda kv_len, window: kv_len if window is None else min(kv_len, window),
    window_of: Callable[[AttentionOptions, int], int | None] = lambda options, layer: options.window_of(layer),
    layers: Callable[[ModelConfig], int] = lambda c: c.n_layers,
    parts: int = 2,
    size: Callable[[Any], int] = lambda dtype: dtype.itemsize,
    batch: Callable[[int], int] = lambda batch_size: batch_size,
    refuse: bool = True,
) -> Count:
    r"""A kv_bytes in which one thing is counted in another way."""

    def function(config: ModelConfig, kv_len: int, batch_size: int = 1, dtype: Any = None) -> int:
        if refuse and kv_len < 0:
            raise ValueError(f"kv_len={kv_len} is negative")
        total = 0
        for layer in range(layers(config)):
            if isinstance(config.attention, Mla):
                total += kv_len * latent(config)
            else:
                total += parts * tokens(kv_len, window_of(config.attention, layer)) * heads(config)
        return total * batch(batch_size) * size(dtype or torch.float32)

    return function


def first_window(options: AttentionOptions, layer: int) -> int | None:
    return options.window[0] if isinstance(options.window, tuple) else options.window


KV_BYTES = Exercise(
    id="inference.caches.kv_bytes.kv_bytes",
    lesson="10",
    title="What a cache weighs",
    task="How many bytes of keys and values must a model keep of `batch_size` texts of `kv_len` tokens? The answer "
    "follows from its configuration: `n_layers`, `n_heads`, `n_kv_heads`, `head_dim`, `d_model` (not all of them "
    "matter), and `attention`. That is either an `Mla` with `kv_rank` and `rope_dim`, whose cache holds one latent and "
    "one rotated key a token in each layer, without heads; or an `AttentionOptions`, whose `window_of(layer)` says how "
    "many tokens the layer still sees: a number, or None for all. `dtype.itemsize` is the size of a number; a dtype of "
    "None stands for float32. A negative count must be refused with a ValueError.",
    difficulty=2,
    minutes=12,
    points=4,
    seed=103,
    hints=(
        "Begin with one layer, one text, one token: what is stored of it, in numbers?",
        "Layers may differ in their windows, so a sum over layers is safest. A layer whose window is longer than the "
        "text holds the text.",
        "`isinstance(config.attention, Mla)` tells the two apart. Is there a factor of 2 in both?",
    ),
    cases=weight_cases,
    oracle=shelf_of_arrays,
    other_style=weight_with(),
    mistakes=(
        Mistake(
            "query heads",
            weight_with(heads=lambda c: c.n_heads * c.head_dim),
            "You count the query heads. Queries are used once and never stored; keys and values have n_kv_heads heads, "
            "and that is why grouped-query attention exists.",
        ),
        Mistake(
            "keys only",
            weight_with(parts=1),
            "You count keys or values, not both: there are two vectors for each head and token.",
        ),
        Mistake(
            "d_model",
            weight_with(heads=lambda c: c.d_model),
            "You count d_model numbers for a key. What is stored is n_kv_heads * head_dim, and neither grouped-query "
            "attention nor a free head_dim makes that d_model.",
        ),
        Mistake(
            "one layer",
            weight_with(layers=lambda c: 1),
            "You count one layer. Each layer has keys and values of its own.",
        ),
        Mistake(
            "one text",
            weight_with(batch=lambda batch_size: 1),
            "`batch_size` makes no difference: each text has its own cache. This is why it is the cache, and not the "
            "weights, that limits how many users fit.",
        ),
        Mistake(
            "numbers instead of bytes",
            weight_with(size=lambda dtype: 1),
            "You count numbers, not bytes. `dtype.itemsize` says how many bytes each takes.",
        ),
        Mistake(
            "always four bytes",
            weight_with(size=lambda dtype: 4),
            "You take 4 bytes for every number, whatever the dtype. Half precision takes 2.",
        ),
        Mistake(
            "bits",
            weight_with(size=lambda dtype: 8 * dtype.itemsize),
            "Your result is eight times too large: `itemsize` is in bytes already.",
        ),
        Mistake(
            "latents unfolded",
            weight_with(latent=lambda c: 2 * c.n_heads * c.head_dim),
            "For latent attention you count the keys and values of all heads. They are made from the latent when they "
            "are needed, and never stored.",
        ),
        Mistake(
            "latents twice",
            weight_with(latent=lambda c: 2 * (c.attention.kv_rank + c.attention.rope_dim)),
            "For latent attention you count twice: there is one latent, from which both keys and values are made, and "
            "one rotated key.",
        ),
        Mistake(
            "latents without the rotated key",
            weight_with(latent=lambda c: c.attention.kv_rank),
            "For latent attention you count the latent alone. The rotated key, rope_dim numbers, is stored beside it: "
            "it could not be made from the latent.",
        ),
        Mistake(
            "window ignored",
            weight_with(tokens=lambda kv_len, window: kv_len),
            "You count all tokens in layers with a window. What no later query can see need not be kept.",
        ),
        Mistake(
            "window for the text",
            weight_with(tokens=lambda kv_len, window: kv_len if window is None else window),
            "You count a full window even where the text is shorter. No layer keeps more tokens than there are.",
        ),
        Mistake(
            "first layer's window for all",
            weight_with(window_of=first_window),
            "You take the first layer's window for all layers. They may differ, and some have none: ask "
            "`window_of(layer)` for each.",
        ),
        Mistake(
            "negative accepted",
            weight_with(refuse=False),
            "A negative number of tokens gives a negative size, and whoever adds it up will not notice. Raise a "
            "ValueError.",
        ),
    ),
)
