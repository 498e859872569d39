r"""Whole models in 8 or 4 bits."""

from copy import deepcopy

import torch
from torch import nn

from minillm.inference.quantization.linears import Int4Linear, Int8Embedding, Int8Linear
from minillm.inference.quantization.nf4_linear import Nf4Linear

WEIGHTS = ("int8", "int4")
GROUP_SIZE = 32
QUANTIZED_LAYERS = (Int8Linear, Int4Linear, Int8Embedding, Nf4Linear)


def quantize_model(model: nn.Module, weights: str = "int8", dtype: torch.dtype | None = None) -> nn.Module:
    r"""A copy of a model whose large matrices are stored in 8 or 4 bits a number; nothing is trained or calibrated.

    Linear layers become `Int8Linear` (one scale a row) or `Int4Linear` (groups of 32). The token embedding and the
    head, tied or not, are in 8 bits in both: they meet the probabilities directly, and 4 bits are felt there. So is a
    layer whose inputs do not come in groups of 32. Routers of experts, norms, biases and tables of positions stay
    floats, in `dtype`, and so do activations and caches.

    Args:
        model: one of ours, in any floating type; best the one that its weights were trained or stored in.
        weights: "int8" or "int4".
        dtype: of what stays floats; None = the model's. bfloat16 is what torch's kernels for the CPU want.
    Returns: a new model on the same device, called like the old one; it shares nothing with it.
    Raises:
        ValueError: if `weights` is neither, the model is quantized already, or there is nothing to quantize.
    Source: Dettmers et al. 2022, LLM.int8(), section 2; Frantar et al. 2022, GPTQ, section 4 (round-to-nearest in
        groups, its baseline).
    Lesson: 11.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights={weights!r}: use one of {[*WEIGHTS]}")
    if is_quantized(model):
        raise ValueError("model: its weights are quantized already; start from the model in floats")
    dtype = dtype or next(model.parameters()).dtype
    with torch.no_grad():
        twin = deepcopy(model, _replacements(model, weights, dtype))
        for parameter in twin.parameters():
            parameter.data = parameter.data.to(dtype)
    return twin.train(model.training)


def is_quantized(model: nn.Module) -> bool:
    r"""Whether a model holds layers whose weights are codes.

    Args:
        model: any.
    Returns: True if there is one at least.
    Lesson: 11.
    """
    return any(isinstance(module, QUANTIZED_LAYERS) for module in model.modules())


def stored_bytes(model: nn.Module) -> int:
    r"""Bytes of all parameters and buffers, what is shared counted once: what a step of one token has to read.

    Args:
        model: any, quantized or not.
    Returns: bytes.
    Lesson: 11.
    """
    stored = [tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())]
    return sum({storage.data_ptr(): storage.nbytes() for storage in stored}.values())


def _replacements(model: nn.Module, weights: str, dtype: torch.dtype) -> dict[int, nn.Module]:
    r"""What stands in the copy for each layer, by the layer's identity: deepcopy takes it from there."""
    made: dict[int, nn.Module] = {}
    rows_of: dict[int, Int8Linear] = {}  # by the matrix, so that what is tied stays tied
    shared = {id(module.weight) for module in model.modules() if type(module) is nn.Embedding}
    for name, module in model.named_modules():
        part = name.rpartition(".")[2]
        if type(module) is not nn.Linear or part == "router":
            continue
        if part == "lm_head" or id(module.weight) in shared or weights == "int8" or module.in_features % GROUP_SIZE:
            layer = Int8Linear.from_weight(module.weight, module.bias, dtype)
            rows_of[id(module.weight)] = layer
        else:
            layer = Int4Linear.from_weight(module.weight, module.bias, dtype, GROUP_SIZE)
        made[id(module)] = layer
    for name, module in model.named_modules():
        if type(module) is nn.Embedding and name.rpartition(".")[2] == "tok_emb":
            table = rows_of.get(id(module.weight)) or Int8Linear.from_weight(module.weight, None, dtype)
            made[id(module)] = Int8Embedding(table)
    if not made:
        raise ValueError(f"model={type(model).__name__}: holds no nn.Linear and no token embedding to quantize")
    return made
