r"""Every method by its name, as it stands on a card: a function (model, **settings) -> a tuned model."""

from collections.abc import Callable

from torch import nn

from minillm.tuning.adapters import houlsby_adapters, parallel_adapters
from minillm.tuning.dora import dora
from minillm.tuning.lora_model import lora
from minillm.tuning.prefixes import p_tuning_v2, prefix_tuning
from minillm.tuning.prompts import prompt_tuning
from minillm.tuning.qlora import qlora
from minillm.tuning.templates import p_tuning

METHODS: dict[str, Callable[..., nn.Module]] = {
    "lora": lora,
    "dora": dora,
    "qlora": qlora,
    "houlsby_adapters": houlsby_adapters,
    "parallel_adapters": parallel_adapters,
    "prompt_tuning": prompt_tuning,
    "p_tuning": p_tuning,
    "prefix_tuning": prefix_tuning,
    "p_tuning_v2": p_tuning_v2,
}
