r"""One door for models of Hugging Face's transformers, and the families that it knows."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from minillm.pretrained.bert import bert_plan
from minillm.pretrained.bloom import bloom_plan
from minillm.pretrained.deepseek import deepseek_v2_plan, deepseek_v3_plan
from minillm.pretrained.gpt2 import gpt2_plan
from minillm.pretrained.gpt_neox import gpt_neox_plan
from minillm.pretrained.llama import llama_plan
from minillm.pretrained.mistral import mistral_plan
from minillm.pretrained.mixtral import mixtral_plan
from minillm.pretrained.opt import opt_plan
from minillm.pretrained.options import Options
from minillm.pretrained.phi import phi_plan
from minillm.pretrained.qwen2 import qwen2_plan
from minillm.pretrained.qwen3 import qwen3_plan
from minillm.pretrained.t5 import t5_plan
from minillm.pretrained.weights import Plan, fill_model

# What a family's configuration calls itself (model_type): its plan.
FAMILIES: dict[str, Callable[[Options, Mapping[str, Tensor]], Plan]] = {
    "bert": bert_plan,
    "bloom": bloom_plan,
    "deepseek_v2": deepseek_v2_plan,
    "deepseek_v3": deepseek_v3_plan,
    "gpt2": gpt2_plan,
    "gpt_neox": gpt_neox_plan,
    "llama": llama_plan,
    "mistral": mistral_plan,
    "mixtral": mixtral_plan,
    "opt": opt_plan,
    "phi": phi_plan,
    "qwen2": qwen2_plan,
    "qwen3": qwen3_plan,
    "t5": t5_plan,
}


def from_hf(hf_model: Any) -> nn.Module:
    r"""Our model with the weights of a Hugging Face model, and the same logits.

    Every option of its configuration that changes the arithmetic is honoured, or the model is refused by the name of
    the option. The result is in eval mode, holds copies, and has the dtype and device of what was given.

    Args:
        hf_model: a model object of transformers, with its language-model head, of one of the `FAMILIES`. Only its
            `config` and `state_dict()` are looked at; transformers itself is not imported.
    Returns: a model, called as `model(token_ids, padding_mask=None, positions=None, cache=None)` if it is a decoder.
    Raises:
        TypeError: if it is no such object.
        ValueError: if its family, one of its options or one of its weights has no counterpart here.
    """
    config = getattr(hf_model, "config", None)
    if not isinstance(getattr(config, "model_type", None), str) or not callable(getattr(hf_model, "state_dict", None)):
        raise TypeError(f"hf_model={type(hf_model).__name__}: use a model object of transformers (it has "
                        "config.model_type and state_dict()), such as AutoModelForCausalLM.from_pretrained(path) gives")
    if config.model_type not in FAMILIES:
        raise ValueError(f"hf_model.config.model_type={config.model_type!r}: this family has no converter; "
                         f"use one of {', '.join(sorted(FAMILIES))}")
    options, state = Options(config.to_dict(), type(config)().to_dict()), hf_model.state_dict()
    dtypes = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    if len(dtypes) != 1 or not all(tensor.is_floating_point() for tensor in state.values()):
        raise ValueError(f"hf_model: weights of dtypes {sorted({str(t.dtype) for t in state.values()})}; "
                         "use a model of one floating dtype, not quantized")
    return converted(options, state, dtypes.pop(), next(iter(state.values())).device, "hf_model")


def converted(
    options: Options, state: Mapping[str, Tensor], dtype: torch.dtype, device: str | torch.device, where: str,
    most_values: int | None = None,
) -> nn.Module:
    r"""Build the model that the options describe, and fill it; no memory is taken for weights that are not kept.

    Args:
        options: of a family that is known.
        state: its weights.
        dtype: of our model.
        device: of our model.
        where: what errors call the other model.
        most_values: a model with more weights is not built, so that a bad file can't ask for all memory; None = any.
    Returns: our model in eval mode.
    Raises:
        ValueError: if an option or a weight has no counterpart here, or they do not fit each other.
    """
    plan = FAMILIES[options.family](options, state)
    options.refuse_unheard()
    with torch.device("meta"):  # shapes alone
        model = plan.build()
    wanted = sum(parameter.numel() for parameter in model.parameters())
    if most_values is not None and wanted > most_values:
        raise ValueError(f"{where}: its configuration wants {wanted} weights, which it does not hold: it is damaged, "
                         "or belongs to another model")
    _give_memory(model, dtype, device)
    fill_model(model, state, plan.moves, where)
    return model.eval()


def _give_memory(model: nn.Module, dtype: torch.dtype, device: str | torch.device) -> None:
    r"""Replace each parameter of a model on the meta device by an empty one; what was tied stays tied."""
    made: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if parameter not in made:
                made[parameter] = nn.Parameter(torch.empty(parameter.shape, dtype=dtype, device=device))
            setattr(module, name, made[parameter])
