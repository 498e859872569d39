r"""What a model is made of: one small frozen dataclass, the small types it holds, and presets by name."""

from minillm.config.model_config import ModelConfig
from minillm.config.parts import AttentionOptions, Ends, Experts, Glu, Init, Mla, Mlp, Norm
from minillm.config.positions import (
    Alibi,
    Learned,
    NoPosition,
    Recursive,
    Rope,
    Shaw,
    Sinusoidal,
    T5Bias,
    TransformerXL,
)
from minillm.config.presets import PRESETS, preset
from minillm.config.scaling import (
    DynamicNtk,
    Llama3Scaling,
    LongRope,
    NtkAware,
    PositionInterpolation,
    Proportional,
    Yarn,
)

__all__ = [
    "PRESETS", "Alibi", "AttentionOptions", "DynamicNtk", "Ends", "Experts", "Glu", "Init", "Learned", "Llama3Scaling",
    "LongRope", "Mla", "Mlp", "ModelConfig", "NoPosition", "Norm", "NtkAware", "PositionInterpolation", "Proportional",
    "Recursive", "Rope", "Shaw", "Sinusoidal", "T5Bias", "TransformerXL", "Yarn", "preset",
]  # fmt: skip
