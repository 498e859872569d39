r"""Small parts of a configuration that many families have: activations and norms."""

from minillm.config import Norm
from minillm.pretrained.options import Options

ACTIVATION_NAMES = {
    "gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_accurate": "gelu_tanh",
    "quick_gelu": "quick_gelu", "relu": "relu", "relu2": "relu_squared", "silu": "silu", "swish": "silu",
    "sigmoid": "sigmoid", "tanh": "tanh", "linear": "identity",
}  # fmt: skip


def activation_option(options: Options, name: str = "hidden_act") -> str:
    r"""Our name of the activation that an option names.

    Args:
        options: of the model.
        name: of the option.
    Returns: a key of `minillm.layers.activations.ACTIVATIONS`.
    Raises:
        ValueError: if we do not have that activation.
    """
    value = options[name]
    options.require(value in ACTIVATION_NAMES, name, f"use one of {', '.join(ACTIVATION_NAMES)}")
    return ACTIVATION_NAMES[value]


def norm_option(options: Options, kind: str, name: str) -> Norm:
    r"""The norm whose eps an option gives.

    Args:
        options: of the model.
        kind: `layer` or `rms`.
        name: of the option.
    Returns: our type.
    Raises:
        ValueError: if eps is not positive.
    """
    eps = options[name]
    options.require(eps > 0, name, "use a small positive number such as 1e-5")
    return Norm(kind, eps, bias=kind == "layer")


def window_option(options: Options, name: str = "sliding_window") -> int | None:
    r"""The window of attention that an option gives.

    Args:
        options: of the model.
        name: of the option.
    Returns: tokens, the query itself included; None = the whole past.
    Raises:
        ValueError: if it is less than 1.
    """
    window = options.get(name)
    options.require(window is None or window >= 1, name, "use at least 1, or None for the whole past")
    return window


def windows_by_layer(options: Options) -> tuple[int | None, ...]:
    r"""The window of each layer, where `layer_types` says which layers have the one of `sliding_window`.

    Args:
        options: of the model.
    Returns: one entry a layer.
    Raises:
        ValueError: if there is a type that we do not have, or a window is missing.
    """
    window, types = window_option(options), options["layer_types"]
    options.ignore("use_sliding_window", "max_window_layers")  # they only decide what stands in the other two
    known = {"full_attention", "sliding_attention"}
    options.require(set(types) <= known, "layer_types", f"use {' and '.join(sorted(known))} only")
    options.require(window is not None or set(types) <= {"full_attention"}, "layer_types",
                    "sliding_attention needs a sliding_window")
    return tuple(window if kind == "sliding_attention" else None for kind in types)
