r"""Every method by its name, as it stands on a card: a function (model, **settings) -> a tuned model."""

from collections.abc import Callable

from torch import nn

from minillm.tuning.lora_model import lora
from minillm.tuning.qlora import qlora

METHODS: dict[str, Callable[..., nn.Module]] = {
    "lora": lora,
    "qlora": qlora,
}
