r"""Fresh weights, judged by what can be measured on them."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from minillm.course.judge.compare import Tolerance
from minillm.course.judge.draw import Draw

OF_A_SAMPLE = Tolerance(0.03, 1e-6, "the spread of a sample of 40,000 numbers or more, good to about 0.4 %")
RESIDUAL_ENDS = ("blocks.{}.attn.o_proj.weight", "blocks.{}.ffn.down_proj.weight")
OTHERS = ("blocks.{}.attn.q_proj.weight", "blocks.{}.ffn.up_proj.weight", "blocks.{}.ffn.gate_proj.weight")


def init_cases(draw: Draw) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    n_layers = draw.size(3, 12)
    rows, columns, layer = draw.size(200, 260), draw.size(200, 260), draw.size(0, n_layers - 1)

    def one(name: str, shape: tuple[int, ...], **options: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        options = {"embedding_std": 0.1 * draw.size(2, 4), "linear_std": 0.01 * draw.size(2, 6)} | options
        return (name.format(layer), shape, n_layers), {**options, "generator": draw.size(0, 2**31)}

    for name in ("tok_emb.weight", "pos_emb.weight", *RESIDUAL_ENDS, *OTHERS, "lm_head.weight"):
        yield one(name, (rows, columns))
    for residual in ("plain", "zero"):
        for name in (RESIDUAL_ENDS[draw.size(0, 1)], OTHERS[draw.size(0, 2)]):
            yield one(name, (rows, columns), residual=residual)
    for name in ("blocks.{}.attn_norm.weight", "blocks.{}.ffn_norm.bias", "blocks.{}.attn.o_proj.bias"):
        yield one(name, (rows,))
    yield one("blocks.{}.ffn.up_proj.bias", (columns,))
    yield one("final_norm.weight", (columns,))
    yield (OTHERS[0].format(layer), (rows, columns), n_layers), {}  # the defaults
    yield one(RESIDUAL_ENDS[0], (rows, columns), residual="tiny")


def measured(function: Callable[..., Tensor], *args: Any, generator: int | None = None, **kwargs: Any) -> Any:
    r"""What counts of fresh weights: their shape, spread and kind of distribution, and where the chance comes from.

    `generator` is the seed of one, since an argument that the function advances would count as changed.
    """

    def seeded() -> dict[str, torch.Generator]:
        return {} if generator is None else {"generator": torch.Generator().manual_seed(generator)}

    weight = function(*args, **kwargs, **seeded())
    if not isinstance(weight, Tensor):
        return weight
    found: dict[str, Any] = {"shape": tuple(weight.shape), "dtype": str(weight.dtype)}
    values = weight.detach().double()
    std, mean = float(values.std()), float(values.mean())
    near_zero = abs(mean) < 6 * std / math.sqrt(values.numel())
    found |= {"standard deviation": std, "mean": 0.0 if near_zero else mean}
    found["share beyond 2 standard deviations"] = _tail(values) if std else 0.0
    if generator is not None:
        again = function(*args, **kwargs, **seeded())
        found["same generator, same weights"] = bool(torch.equal(weight, again))
    return found


def _tail(values: Tensor) -> float:
    r"""0.05 for a normal distribution, 0 for a uniform one, rounded so that no sample size matters."""
    return round(float(((values - values.mean()).abs() > 2 * values.std()).double().mean()) * 20) / 20


def expected_measurements(
    name: str,
    shape: tuple[int, ...],
    n_layers: int,
    *,
    embedding_std: float = 0.02,
    linear_std: float = 0.02,
    residual: str = "scaled",
    generator: int | None = None,
) -> dict[str, Any]:
    if residual not in ("scaled", "zero", "plain"):
        raise ValueError("residual")
    *_, part, kind = name.split(".")
    std, mean = linear_std, 0.0
    if part.endswith("_emb"):
        std = embedding_std
    elif part.endswith("_norm") or kind == "bias":
        std, mean = 0.0, 1.0 if kind == "weight" else 0.0
    elif part in ("o_proj", "down_proj"):
        std = {"scaled": (2 * n_layers) ** -0.5, "zero": 0.0, "plain": 1.0}[residual] * linear_std
    found = {"shape": tuple(shape), "dtype": "torch.float32", "standard deviation": std, "mean": mean}
    found["share beyond 2 standard deviations"] = 0.05 if std else 0.0
    return found | ({} if generator is None else {"same generator, same weights": True})


def init_by(
    shrink: Callable[[int], float] = lambda n_layers: (2 * n_layers) ** -0.5,
    ends: tuple[str, ...] = ("o_proj", "down_proj"),
    draw: Callable[..., Tensor] = lambda shape, std, g: torch.randn(*shape, generator=g) * std,
    norm_weight: Callable[..., Tensor] = lambda shape, std, g: torch.ones(*shape),
    bias: Callable[..., Tensor] = lambda shape, std, g: torch.zeros(*shape),
    stds: Callable[[float, float], tuple[float, float]] = lambda embedding, linear: (embedding, linear),
    known: tuple[str, ...] = ("scaled", "zero", "plain"),
    norm_bias_too: bool = False,
) -> Callable[..., Tensor]:
    r"""An init_weights in which one thing is done in another way."""

    def wrong(
        name: str,
        shape: Any,
        n_layers: int,
        *,
        embedding_std: float = 0.02,
        linear_std: float = 0.02,
        residual: str = "scaled",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        if residual not in known and known:
            raise ValueError(residual)
        for_embedding, for_linear = stds(embedding_std, linear_std)
        if "norm" in name and (norm_bias_too or not name.endswith("bias")):
            return norm_weight(shape, for_linear, generator)
        if name.endswith("bias"):
            return bias(shape, for_linear, generator)
        if "emb" in name:
            return draw(shape, for_embedding, generator)
        factor = 1.0
        if any(f"{end}.weight" in name for end in ends):
            factor = {"zero": 0.0, "plain": 1.0}.get(residual, shrink(n_layers))
        return draw(shape, for_linear * factor, generator)

    return wrong


def uniform(shape: Any, std: float, generator: Any) -> Tensor:
    return (torch.rand(*shape, generator=generator) * 2 - 1) * std * math.sqrt(3)


def normal_in_place(shape: Any, std: float, generator: Any) -> Tensor:
    return torch.empty(*shape).normal_(0.0, std, generator=generator) if std else torch.zeros(*shape)


def by_fan_in(shape: Any, std: float, generator: Any) -> Tensor:
    return torch.randn(*shape, generator=generator) / math.sqrt(shape[-1])


def from_the_global_generator(shape: Any, std: float, generator: Any) -> Tensor:
    return torch.randn(*shape) * std
