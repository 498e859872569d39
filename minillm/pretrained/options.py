r"""The options of a foreign configuration, and a record of which ones a converter has looked at.

A converter asks for the options that it honours. What it never asked for must stand at the default of its class or be
known to leave the logits alone; otherwise the model is refused, by the name of the option. So an option that is new, or
forgotten here, can make a conversion fail but never make it silently wrong.
"""

from collections.abc import Mapping
from typing import Any, NoReturn

# Without effect on the logits of a model in eval mode: names, labels, what is returned, what only training or
# generate() looks at. Whatever ends in _token_id or _dropout belongs here too.
HARMLESS = frozenset((
    "transformers_version", "model_type", "architectures", "dtype", "torch_dtype", "_name_or_path", "name_or_path",
    "tokenizer_class", "return_dict", "output_hidden_states", "output_attentions", "use_cache", "id2label", "label2id",
    "problem_type", "initializer_range", "init_std", "dropout", "layerdrop", "resid_pdrop", "embd_pdrop", "attn_pdrop",
    "task_specific_params", "is_llama_config", "transformers.js_config",
))  # fmt: skip


class Options:
    r"""What a Hugging Face configuration says, with a note of every option that was asked for.

    Args:
        values: the options by name; `model_type` is one of them.
        defaults: of the family's options.
        where: what errors call the configuration.
    """

    def __init__(self, values: Mapping[str, Any], defaults: Mapping[str, Any], where: str = "hf_model.config"):
        self.family = values["model_type"]
        self.where = where
        self.values, self._defaults = dict(values), dict(defaults)  # looking at values here leaves no note
        self._heard: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        if name not in self.values:
            raise ValueError(f"{self.where}.{name}: missing; a {self.family} model has this option")
        return self.get(name)

    def get(self, name: str, default: Any = None) -> Any:
        r"""The value of an option that not every configuration has.

        Args:
            name: of the option.
            default: where it is missing or None.
        Returns: the value.
        """
        self._heard.add(name)
        value = self.values.get(name)
        return default if value is None else value

    def ignore(self, *names: str) -> None:
        r"""Say of options that in this family their value changes nothing.

        Args:
            names: of the options.
        """
        self._heard.update(names)

    def refuse(self, name: str, reason: str) -> NoReturn:
        r"""Refuse the model because of one option.

        Args:
            name: of the option.
            reason: why, and what would do.
        Raises:
            ValueError: always.
        """
        raise ValueError(f"{self.where}.{name}={self.values.get(name)!r}: {reason}")

    def require(self, ok: bool, name: str, reason: str) -> None:
        r"""Refuse the model because of one option unless something holds.

        Args:
            ok: whether it holds.
            name: of the option.
            reason: why not, and what would do.
        Raises:
            ValueError: if it is not ok.
        """
        if not ok:
            self.refuse(name, reason)

    def refuse_unheard(self) -> None:
        r"""Refuse the model if an option that nobody asked for has a value of its own.

        Raises:
            ValueError: naming the first such option.
        """
        for name, value in self.values.items():
            harmless = name in HARMLESS or name.endswith(("_token_id", "_dropout"))
            at_default = value == self._defaults.get(name)
            if not (harmless or at_default or name in self._heard):
                self.refuse(name, f"the converter of {self.family} does not know this option, so it can't tell what it "
                            "changes; leave it at its default")
