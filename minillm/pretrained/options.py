r"""The options of a foreign configuration, and a record of which ones a converter has looked at.

A converter asks for the options that it honours. What it never asked for must stand at the default of its class or be
known to leave the logits alone; otherwise the model is refused, by the name of the option. So an option that is new, or
forgotten here, can make a conversion fail but never make it silently wrong.
"""

from typing import Any, NoReturn

# Without effect on the logits of a model in eval mode: names, labels, what is returned, what only training or
# generate() looks at. Whatever ends in _token_id or _dropout belongs here too.
HARMLESS = frozenset((
    "transformers_version", "model_type", "architectures", "dtype", "torch_dtype", "_name_or_path", "name_or_path",
    "tokenizer_class", "return_dict", "output_hidden_states", "output_attentions", "use_cache", "id2label", "label2id",
    "problem_type", "initializer_range", "init_std", "dropout", "layerdrop", "resid_pdrop", "embd_pdrop", "attn_pdrop",
    "task_specific_params",
))  # fmt: skip


class Options:
    r"""What a Hugging Face configuration says, with a note of every option that was asked for.

    Args:
        config: the configuration object, with `model_type` and `to_dict()`; its class can be called without arguments
            for the defaults.
    """

    def __init__(self, config: Any):
        self.family = config.model_type
        self._values = config.to_dict()
        self._defaults = type(config)().to_dict()
        self._heard: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        if name not in self._values:
            raise ValueError(f"hf_model.config.{name}: missing; a {self.family} model has this option")
        return self.get(name)

    def get(self, name: str, default: Any = None) -> Any:
        r"""The value of an option that not every configuration has.

        Args:
            name: of the option.
            default: where it is missing or None.
        Returns: the value.
        """
        self._heard.add(name)
        value = self._values.get(name)
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
        raise ValueError(f"hf_model.config.{name}={self._values.get(name)!r}: {reason}")

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
        for name, value in self._values.items():
            harmless = name in HARMLESS or name.endswith(("_token_id", "_dropout"))
            at_default = value == self._defaults.get(name)
            if not (harmless or at_default or name in self._heard):
                self.refuse(name, f"the converter of {self.family} does not know this option, so it can't tell what it "
                            "changes; leave it at its default")
