r"""Change a trained model by training little: methods that add small parts to a frozen model.

Each method is a function `method(model, ...)` that gives a tuned model, called, cached and generated from like the
model itself, which is not changed and shares its numbers. What needs gradients in it is what is trained, by
`training.loop.train` as ever. Read first: `low_rank`, `swapping`, `lora_linear`, `lora_model`.
"""

from minillm.tuning.lora_model import active_adapters as active
from minillm.tuning.lora_model import lora
from minillm.tuning.lora_model import merged_model as merged
from minillm.tuning.qlora import qlora

__all__ = [
    "active",
    "lora",
    "merged",
    "qlora",
]
