r"""Configurations to count, and two ways to count them: by building the model, and by formulas that can be wrong."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from minillm.config import AttentionOptions, Glu, Learned, Mlp, ModelConfig, Norm, Rope
from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw
from minillm.model.gpt import GPT

EXACT_COUNT = Tolerance(0.0, 0.0, "whole numbers")


def small_configs(draw: Draw) -> Iterator[ModelConfig]:
    r"""Small models in which head_dim is not d_model / n_heads, and d_ff not 4 * d_model."""
    n_kv_heads = draw.size(2, 3)
    width, d_ff, head_dim = 8 * draw.size(2, 4), draw.size(70, 99), 2 * draw.size(5, 7)
    base = ModelConfig(
        vocab_size=draw.size(30, 60), max_seq_len=draw.size(17, 25), d_model=width, n_layers=draw.size(2, 4),
        n_heads=2 * n_kv_heads, n_kv_heads=n_kv_heads, head_dim=head_dim, ffn=Mlp(d_ff),
    )  # fmt: skip
    biases = AttentionOptions(qkv_bias=True, o_bias=True)
    yield base
    yield replace(base, ffn=Glu(d_ff), position=Rope(), norm=Norm("rms", bias=False), tie_embeddings=False)
    yield replace(base, ffn=Mlp(d_ff, bias=True), attention=biases, n_kv_heads=2 * n_kv_heads)
    yield replace(base, ffn=Glu(d_ff, bias=True), attention=AttentionOptions(qkv_bias=True), residual="post")
    yield replace(base, norm=Norm("layer", bias=False), attention=AttentionOptions(o_bias=True), n_layers=1)


def config_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    for config in small_configs(draw):
        yield (config,), {}


def counted_in_a_built_model(config: ModelConfig) -> dict[str, int]:
    r"""Build it, and add up."""
    model = GPT(config)
    found = dict.fromkeys(("embedding", "position", "attention", "ffn", "norm", "lm_head"), 0)
    homes = {"tok_emb": "embedding", "pos_emb": "position", "attn": "attention", "ffn": "ffn", "lm_head": "lm_head"}
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        home = next((homes[part] for part in parts if part in homes), "norm")
        found["norm" if "norm" in name else home] += parameter.numel()
    return {**found, "total": sum(parameter.numel() for parameter in model.parameters())}


def counted_in_a_built_block(config: ModelConfig) -> dict[str, int]:
    whole = counted_in_a_built_model(replace(config, n_layers=1))
    final = counted_in_a_built_model(replace(config, n_layers=2))["norm"] - whole["norm"]
    return {"attention": whole["attention"], "ffn": whole["ffn"], "norm": final}


def attention_count(
    c: ModelConfig,
    head_dim: Callable[[ModelConfig], int] = lambda c: c.head_dim,
    n_kv_heads: Callable[[ModelConfig], int] = lambda c: c.n_kv_heads,
    output: bool = True,
    biases: Callable[[ModelConfig, int, int], int] | None = None,
) -> int:
    q_width, kv_width = c.n_heads * head_dim(c), n_kv_heads(c) * head_dim(c)
    count = c.d_model * (q_width + 2 * kv_width) + (q_width * c.d_model if output else 0)
    if biases is not None:
        return count + biases(c, q_width, kv_width)
    options = c.attention
    return count + (q_width + 2 * kv_width if options.qkv_bias else 0) + (c.d_model if options.o_bias else 0)


def ffn_count(
    c: ModelConfig,
    gate: bool = True,
    d_ff: Callable[[ModelConfig], int] = lambda c: c.ffn.d_ff,
    biases: Callable[[ModelConfig], int] | None = None,
) -> int:
    wide = [d_ff(c)] * (2 if gate and isinstance(c.ffn, Glu) else 1)
    if biases is not None:
        return c.d_model * (sum(wide) + d_ff(c)) + biases(c)
    return c.d_model * (sum(wide) + d_ff(c)) + (sum(wide) + c.d_model if c.ffn.bias else 0)


def norm_count(c: ModelConfig) -> int:
    return c.d_model + (c.d_model if c.norm.kind == "layer" and c.norm.bias else 0)


def block_by(
    attention: Callable[[ModelConfig], int] = attention_count,
    ffn: Callable[[ModelConfig], int] = ffn_count,
    norm: Callable[[ModelConfig], int] = lambda c: 2 * norm_count(c),
) -> Callable[[ModelConfig], dict[str, int]]:
    r"""A count of one block in which a part is counted in another way."""
    return lambda config: {"attention": attention(config), "ffn": ffn(config), "norm": norm(config)}


def model_count_by(
    position: Callable[[ModelConfig], int] = lambda c: c.max_seq_len if isinstance(c.position, Learned) else 0,
    layers: Callable[[ModelConfig], int] = lambda c: c.n_layers,
    final_norm: Callable[[ModelConfig], int] = lambda c: norm_count(c) if c.residual == "pre" else 0,
    head: Callable[[ModelConfig], int] = lambda c: 0 if c.tie_embeddings else c.vocab_size,
    total: Callable[[dict[str, int]], int] = lambda parts: sum(parts.values()),
) -> Callable[[ModelConfig], dict[str, int]]:
    r"""A count of the model in which one thing is counted in another way."""

    def wrong(config: ModelConfig) -> dict[str, int]:
        parts = {"embedding": config.vocab_size * config.d_model, "position": position(config) * config.d_model}
        parts |= {part: layers(config) * number for part, number in block_by()(config).items()}
        parts["norm"] += final_norm(config)
        parts["lm_head"] = head(config) * config.d_model
        return {**parts, "total": total(parts)}

    return wrong
