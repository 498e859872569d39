r"""What a LLaMA is, to those who read its files: which of our models are one, and where each of their weights goes.

Export is narrow on purpose. What a file cannot say, its reader would leave out in silence and write worse text; so a
model is either what LLaMA is in every field, or refused by the name of the field.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor

from minillm.config import AttentionOptions, Ends, Glu, ModelConfig, Rope
from minillm.inference.quantization.convert import is_quantized
from minillm.model.gpt import GPT
from minillm.pretrained.weights import Move, each_layer
from minillm.training.precision import DTYPES


@dataclass(frozen=True)
class Demand:
    r"""What one field of a configuration must hold.

    Args:
        field: its path in `ModelConfig`.
        ok: whether a value will do.
        fix: which value does.
    """

    field: str
    ok: Callable[[Any], bool]
    fix: str


SHAPE = (
    Demand("position", lambda value: type(value) is Rope, "LLaMA has rotary positions, use Rope()"),
    Demand("position.share", lambda share: share == 1, "LLaMA turns all features of a head, use 1.0"),
    Demand("norm.kind", lambda kind: kind == "rms", "LLaMA has RMSNorm, use 'rms'"),
    Demand("residual", lambda kind: kind == "pre", "LLaMA has its norms inside the branches, use 'pre'"),
    Demand("ffn", lambda ffn: type(ffn) is Glu, "LLaMA has a gated FFN, use Glu(...)"),
    Demand("attention", lambda kind: type(kind) is AttentionOptions, "LLaMA has plain heads, use AttentionOptions()"),
    Demand("attention.window", lambda window: not any(window if isinstance(window, tuple) else (window,)),
           "LLaMA sees the whole past, use None"),
    Demand("attention.qk_norm", lambda norm: not norm, "LLaMA has no norm on queries and keys, use False"),
    Demand("attention.scale", lambda scale: scale is None, "LLaMA scales by 1 / sqrt(head_dim), use None"),
    *(Demand(f"ends.{name}", partial(operator.eq, usual), f"LLaMA has nothing there, use {usual}")
      for name, usual in asdict(Ends()).items()),
)  # fmt: skip


def require_llama(model: Any, demands: Sequence[Demand]) -> ModelConfig:
    r"""See to it that a model is a LLaMA.

    Args:
        model: anything.
        demands: of the kind of file, beside those of `SHAPE`.
    Returns: its configuration.
    Raises:
        TypeError: if it is no decoder of ours.
        ValueError: naming the first field that is another's, or that the weights are not plain ones.
    """
    if type(model) is not GPT:
        raise TypeError(f"model={type(model).__name__}: only a minillm.model.gpt.GPT can be exported")
    if is_quantized(model):
        raise ValueError("model: its weights are quantized, and are not exported: what was rounded cannot be had back; "
                         "load the model with weights='fp32'")
    for demand in (*SHAPE, *demands):
        value = reduce(getattr, demand.field.split("."), model.config)
        if not demand.ok(value):
            raise ValueError(f"model.config.{demand.field}={value!r}: cannot be exported: {demand.fix}")
    c = model.config
    if c.d_model % c.n_heads:
        raise ValueError(f"model.config.n_heads={c.n_heads}: cannot be exported: transformers wants a divisor of "
                         f"d_model={c.d_model}")
    dtypes = {parameter.dtype for parameter in model.parameters()}
    if len(dtypes) != 1 or not dtypes <= set(DTYPES.values()):
        raise ValueError(f"model: weights of {', '.join(sorted(map(str, dtypes)))} cannot be exported; use a model of "
                         f"one of {', '.join(DTYPES)}, not quantized")
    return c


def renamed_weights(model: GPT, moves: Sequence[Move]) -> dict[str, Tensor]:
    r"""The weights of a LLaMA by their names in a file.

    Args:
        model: checked by `require_llama`.
        moves: `theirs` is the name in the file and `ours` in the model, with `{i}` for the layer.
    Returns: tensors, not copied; of tied ones only the embedding.
    Raises:
        ValueError: if the model holds something that no move names, such as an adapter.
    """
    state: Mapping[str, Tensor] = model.state_dict()
    names = {move.ours + suffix: move.theirs + suffix
             for move in each_layer(model.config.n_layers, moves) for suffix in (".weight", ".bias")}
    unknown = sorted(set(state) - set(names))
    if unknown:
        raise ValueError(f"model: {', '.join(unknown[:4])}: LLaMA has no place for this; merge adapters first")
    tied = model.config.tie_embeddings
    return {names[name]: tensor for name, tensor in state.items() if not (tied and name == "lm_head.weight")}


def cast_weight(tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    r"""A weight in another floating type.

    Args:
        tensor: the weight.
        dtype: to what.
        name: for the error.
    Returns: a contiguous tensor on the CPU.
    Raises:
        ValueError: if a number is too large for the type, or is none.
    """
    cast = tensor.detach().to("cpu", dtype).contiguous()
    if not cast.isfinite().all():
        raise ValueError(f"{name}: its largest number, {tensor.abs().max().item():.3g}, is beyond {dtype}, or it is "
                         "none; use a wider type")
    return cast
