r"""Change a trained model by training little: methods that add small parts to a frozen model.

Each method is a function `method(model, ...)` that gives a tuned model, called, cached and generated from like the
model itself, which is not changed and shares its numbers. What needs gradients in it is what is trained, by
`training.loop.train` as ever. Read first: `low_rank`, `swapping`, `lora_linear`, `lora_model`.
"""

from minillm.tuning.adapters import houlsby_adapters, parallel_adapters
from minillm.tuning.dora import dora
from minillm.tuning.encoders import without_encoders as finished
from minillm.tuning.files import load_tuned as load
from minillm.tuning.files import save_tuned as save
from minillm.tuning.lora_model import active_adapters as active
from minillm.tuning.lora_model import lora
from minillm.tuning.lora_model import merged_model as merged
from minillm.tuning.peft_files import load_peft, save_peft
from minillm.tuning.prefixes import p_tuning_v2, prefix_tuning
from minillm.tuning.prompts import prompt_tuning
from minillm.tuning.qlora import qlora
from minillm.tuning.templates import p_tuning

__all__ = [
    "active",
    "dora",
    "finished",
    "houlsby_adapters",
    "load",
    "load_peft",
    "lora",
    "merged",
    "p_tuning",
    "p_tuning_v2",
    "parallel_adapters",
    "prefix_tuning",
    "prompt_tuning",
    "qlora",
    "save",
    "save_peft",
]
