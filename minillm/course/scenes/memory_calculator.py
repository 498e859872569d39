r"""The training-memory calculator: choose a model, a batch and methods, and see what one device has to hold."""

from typing import Any

from ipywidgets import Checkbox, Dropdown, IntSlider, SelectionSlider
from matplotlib.figure import Figure

from minillm.config import preset
from minillm.course.plots import INK, new_figure
from minillm.course.scenes.training_pictures import GIB, memory_bars
from minillm.model import counting
from minillm.training import memory, zero

MODELS = ("gpt2", "smollm2-135m", "llama-7b", "gpt3")
DEVICES = (8, 24, 80)  # GiB of a laptop's, a desktop's and a data centre's device
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
RANKS = tuple(2**n for n in range(11))


def device_bytes(
    model: str, batch_size: int, seq_len: int, dtype: str, recompute: bool, flash: bool, n_ranks: int, stage: int
) -> dict[str, float]:
    r"""What each device holds at the worst moment of a step.

    Args:
        model: one of MODELS.
        batch_size: sequences of one micro-batch, on each device.
        seq_len: tokens in each.
        dtype: `fp32`, `bf16` or `fp16`.
        recompute: whether blocks keep only their input.
        flash: whether attention keeps no (T, T) weights.
        n_ranks: devices that share the work.
        stage: of ZeRO: 0 shares nothing out, 1 moments and masters, 2 gradients too, 3 weights too.
    Returns: bytes of `weights`, `gradients`, `masters`, `moments`, `activations`, `logits`, and `total`.
    Raises:
        ValueError: if there is no such model.
    """
    if model not in MODELS:
        raise ValueError(f"model={model!r}: choose one of {', '.join(MODELS)}")
    config = preset(model)
    parts = memory.training_bytes(
        config, batch_size, seq_len, dtype=dtype, recompute=recompute, scores_kept=not flash)
    n_parameters = counting.count_parameters(config)["total"]
    sizes = [parts[name] // n_parameters for name in ("weights", "gradients", "masters", "moments")]
    shared = zero.zero_bytes(n_parameters, n_ranks, stage, sizes[0], sizes[1], sizes[2] + sizes[3])
    state = {name: shared[name] for name in ("weights", "gradients")}
    state |= {name: shared["optimizer"] * size / (sizes[2] + sizes[3])
              for name, size in zip(("masters", "moments"), sizes[2:], strict=True)}
    kept = {**state, "activations": parts["activations"], "logits": parts["logits"]}
    return {**kept, "total": sum(kept.values())}


def calculator_picture(
    model: str, batch_size: int, seq_len: int, dtype: str, recompute: bool, flash: bool, n_ranks: int, stage: int
) -> Figure:
    r"""Draw what the chosen methods leave, below what plain float32 training on one device would take.

    Args:
        model: as in `device_bytes`.
        batch_size: as in `device_bytes`.
        seq_len: as in `device_bytes`.
        dtype: as in `device_bytes`.
        recompute: as in `device_bytes`.
        flash: as in `device_bytes`.
        n_ranks: as in `device_bytes`.
        stage: as in `device_bytes`.
    Returns: the picture.
    """
    plain = device_bytes(model, batch_size, seq_len, "fp32", False, False, 1, 0)
    chosen = device_bytes(model, batch_size, seq_len, dtype, recompute, flash, n_ranks, stage)
    figure, (axes,) = new_figure(width=9.0, height=2.9)
    memory_bars(axes, {"float32, one device": plain, "your choice": chosen}, limits=DEVICES)
    fits = [size for size in DEVICES if chosen["total"] <= size * GIB]
    verdict = f"fits into {fits[0]} GiB" if fits else f"does not fit into {DEVICES[-1]} GiB"
    n_parameters = counting.count_parameters(preset(model))["total"]
    figure.suptitle(f"{model}, {n_parameters / 1e6:,.0f} million weights: your choice takes "
                    f"{chosen['total'] / GIB:,.1f} GiB a device, {verdict}", fontsize=10, color=INK)
    return figure


def calculator_controls() -> dict[str, Any]:
    r"""Make the controls of the calculator, at GPT-2's size.

    Returns: a control for each argument of `calculator_picture`.
    """
    look = {"style": {"description_width": "11em"}, "layout": {"width": "36em"}}
    stages = (("0, nothing", 0), ("1, masters and moments", 1), ("2, gradients too", 2), ("3, weights too", 3))
    return {
        "model": Dropdown(options=MODELS, value="gpt2", description="model", **look),
        "batch_size": IntSlider(value=8, min=1, max=64, description="micro-batch", continuous_update=False, **look),
        "seq_len": SelectionSlider(
            options=LENGTHS, value=1024, description="tokens a sequence", continuous_update=False, **look),
        "dtype": Dropdown(options=("fp32", "bf16", "fp16"), value="bf16", description="compute in", **look),
        "recompute": Checkbox(value=True, description="activation checkpointing", indent=True, **look),
        "flash": Checkbox(value=False, description="flash attention", indent=True, **look),
        "n_ranks": SelectionSlider(options=RANKS, value=1, description="devices", continuous_update=False, **look),
        "stage": Dropdown(options=stages, value=0, description="ZeRO shares out", **look),
    }
