r"""The model explorer: move the sizes of a model, and see its weights, its operations and its memory."""

from typing import Any

from ipywidgets import Checkbox, Dropdown, IntSlider, SelectionSlider
from matplotlib.figure import Figure

from minillm.config import Glu, Mlp, ModelConfig, Norm, Rope
from minillm.course.plots import INK, new_figure
from minillm.course.scenes.model_pictures import stacked_bars
from minillm.model import counting

HEAD_DIM = 64
CONTEXT = 4096  # tokens, for the cost of attention and for the cache
BYTES = 2  # of a number in 16 bits
# Training with Adam: weight, gradient, and float32 copies of the weight and of Adam's two averages.
TRAINING_BYTES = 2 + 2 + 4 + 4 + 4
SHARES = {"every query head its own": 1, "2 share": 2, "4 share": 4, "8 share": 8, "all share": 0}
WIDTHS = tuple(range(256, 4097, 256))
VOCABULARIES = (256, 8_192, 32_000, 50_257, 128_000, 256_000)


def explored_config(d_model: int, n_layers: int, sharing: str, vocab_size: int, gated: bool, tied: bool) -> ModelConfig:
    r"""The model behind the explorer's controls: RoPE, RMSNorm, heads of 64 features.

    Args:
        d_model: D, a multiple of 64.
        n_layers: L.
        sharing: one of SHARES: how many query heads share a key and value head.
        vocab_size: V.
        gated: a GLU of 8/3 D instead of an MLP of 4 D, rounded up to a multiple of 64.
        tied: whether the head is the token embedding.
    Returns: the configuration.
    Raises:
        ValueError: if the heads cannot be shared so.
    """
    n_heads = d_model // HEAD_DIM
    n_sharing = SHARES[sharing] or n_heads
    if n_heads % n_sharing:
        raise ValueError(f"sharing={sharing!r}: {n_heads} heads cannot be shared so; choose another d_model")
    d_ff = -(-(8 * d_model // 3) // 64) * 64
    return ModelConfig(
        vocab_size=vocab_size, max_seq_len=CONTEXT, d_model=d_model, n_layers=n_layers, n_heads=n_heads,
        n_kv_heads=n_heads // n_sharing, head_dim=HEAD_DIM, ffn=Glu(d_ff) if gated else Mlp(4 * d_model),
        position=Rope(), norm=Norm("rms", bias=False), tie_embeddings=tied,
    )  # fmt: skip


def explored_sizes(config: ModelConfig) -> dict[str, dict[str, float]]:
    r"""What a model costs, in three currencies.

    Args:
        config: the model.
    Returns: "parameters", in millions, by part; "operations", in GFLOP a token at a context of CONTEXT tokens;
        "memory", in GB: 16-bit weights, the cache of one text of CONTEXT tokens, and what training adds.
    """
    counts = counting.count_parameters(config)
    flops = counting.flops_per_token(config, CONTEXT)
    embeddings = counts["embedding"] + counts["position"] + counts["lm_head"]
    cache = 2 * config.n_layers * config.n_kv_heads * config.head_dim * CONTEXT * BYTES
    weights = counts["total"] * BYTES
    return {
        "parameters": {
            "embeddings": embeddings / 1e6,
            "attention": counts["attention"] / 1e6,
            "FFN": counts["ffn"] / 1e6,
        },
        "operations": {
            "lm_head": flops["lm_head"] / 1e9,
            "attention's and FFN's matrices": flops["matrices"] / 1e9,
            f"products with {CONTEXT} keys": flops["attention"] / 1e9,
        },
        "memory": {
            "weights": weights / 1e9,
            f"cache of {CONTEXT} tokens": cache / 1e9,
            "more for training with Adam": (counts["total"] * TRAINING_BYTES - weights) / 1e9,
        },
    }


def sizes_picture(d_model: int, n_layers: int, sharing: str, vocab_size: int, gated: bool, tied: bool) -> Figure:
    r"""Draw what a model costs, a panel for each currency.

    Args:
        d_model: as in `explored_config`.
        n_layers: as there.
        sharing: as there; where the heads cannot be shared so, the picture says it.
        vocab_size: as there.
        gated: as there.
        tied: as there.
    Returns: the picture.
    """
    figure, panels = new_figure(columns=3, width=10.2, height=3.3)
    try:
        config = explored_config(d_model, n_layers, sharing, vocab_size, gated, tied)
    except ValueError as error:
        for axes in panels:
            axes.set_axis_off()
        panels[1].text(0.5, 0.5, str(error), ha="center", va="center", fontsize=11, color=INK)
        return figure
    units = {"parameters": "millions", "operations": "GFLOP a token", "memory": "GB"}
    for axes, (title, parts) in zip(panels, explored_sizes(config).items(), strict=True):
        total = sum(parts.values())
        stacked_bars(axes, {"": parts}, f"{title}: {total:,.4g} {units[title]}", units[title])
        axes.set_xlim(0, 1.04 * total)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), fontsize=9, frameon=False)
    return figure


def model_controls() -> dict[str, Any]:
    r"""Make the controls of the explorer, at a model of about half a billion weights.

    Returns: a control for each argument of `sizes_picture`.
    """
    look = {"style": {"description_width": "7em"}, "layout": {"width": "34em"}}
    return {
        "d_model": SelectionSlider(options=WIDTHS, value=1024, description="d_model", **look),
        "n_layers": IntSlider(value=16, min=1, max=96, description="n_layers", **look),
        "sharing": Dropdown(options=list(SHARES), value="4 share", description="keys, values", **look),
        "vocab_size": SelectionSlider(options=VOCABULARIES, value=32_000, description="vocab_size", **look),
        "gated": Checkbox(value=True, description="gated FFN (SwiGLU)", **look),
        "tied": Checkbox(value=False, description="head tied to embedding", **look),
    }
