r"""Which models can take the fast path: what it leaves out, it must not need."""

from typing import Any

from torch import nn

from minillm.inference.fast.ways import LAYERS
from minillm.inference.quantization.linears import Int8Embedding
from minillm.layers.attention import Attention
from minillm.layers.ffn import GLU
from minillm.layers.norms import RMSNorm
from minillm.model.gpt import GPT

PARTS = {  # of a block; any one of the types
    "attn": (Attention,), "ffn": (GLU,), "attn_norm": (RMSNorm,), "ffn_norm": (RMSNorm,),
    **dict.fromkeys(("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.o_proj"), LAYERS),
    **dict.fromkeys(("ffn.gate_proj", "ffn.up_proj", "ffn.down_proj"), LAYERS),
}  # fmt: skip
JOINED = (("attn.q_proj", "attn.k_proj", "attn.v_proj"), ("ffn.gate_proj", "ffn.up_proj"))
ENDS = {"tok_emb": (nn.Embedding, Int8Embedding), "emb_norm": (nn.Identity,), "final_norm": (RMSNorm,),
        "lm_head": LAYERS}
NOTHING_ELSE = ("q_norm", "k_norm", "mask_rule", "bias_rule", "reading")  # of attention


def slow_part(model: Any) -> str | None:
    r"""Why a model cannot take the fast path.

    Args:
        model: any.
    Returns: what is another than the fast path knows, in words; None = the model can.
    Lesson: 11.
    """
    if type(model) is not GPT:
        return f"{type(model).__name__} is no minillm.model.gpt.GPT"
    where = {tensor.device.type for tensor in (*model.parameters(), *model.buffers())}
    if where != {"cpu"}:
        return f"its weights lie on {', '.join(sorted(where))}, and the fast path is for the CPU"
    if model.config.residual != "pre":
        return f"residual={model.config.residual!r}, and the fast path knows 'pre' alone"
    if not model.config.rotary_dim() or model.config.position.depends_on_length():
        return f"position={model.config.position!r}, and the fast path knows angles alone that stay as they are"
    return _other_part(model, ENDS) or next(filter(None, map(_slow_part_of_block, model.blocks)), None)


def _slow_part_of_block(block: nn.Module) -> str | None:
    if (reason := _other_part(block, PARTS)) is not None:
        return reason
    for name in NOTHING_ELSE:
        if getattr(block.attn, name) is not None:
            return f"its attention has a {name}, which the fast path leaves out"
    for names in JOINED:
        if len({type(block.get_submodule(name)) for name in names}) > 1:
            return f"{', '.join(names)} are of several types, and the fast path joins them"
    return None


def _other_part(module: nn.Module, parts: dict[str, tuple[type, ...]]) -> str | None:
    for name, kinds in parts.items():  # a part stands before its own parts
        kind = type(module.get_submodule(name))
        if kind not in kinds:
            return f"{name} is a {kind.__name__}, and the fast path knows {', '.join(each.__name__ for each in kinds)}"
    return None
