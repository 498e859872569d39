r"""The cost explorer: what each attention variant keeps, computes and lays out, at sizes that you choose."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ipywidgets import Dropdown, IntSlider, SelectionSlider, Widget
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minillm.course.plots import COLOURS, DASHES, INK, PALE, new_figure
from minillm.layers.attention_cost import KINDS, AttentionSizes, kept_floats, largest_tensor, step_flops

# A layer with 32 heads, as in many models of 7 billion weights.
WIDE = AttentionSizes(
    d_model=4096, n_heads=32, head_dim=128, n_kv_heads=8, kv_rank=512, rope_dim=64, window=4096, segment_len=2048)
SOFTMAX_KINDS = ("MHA", "GQA", "MQA", "MLA", "window")
BYTES = 2  # a number in bfloat16
TILE_LEN = 128
LENGTHS = {f"{2**n:,}": 2**n for n in range(8, 21, 2)}


def explored_costs(
    sizes: AttentionSizes, n_layers: int, n_tokens: int, tile_len: int | None
) -> dict[str, dict[str, int]]:
    r"""Three costs of every variant, for a model of n_layers.

    Args:
        sizes: of one layer.
        n_layers: L.
        n_tokens: tokens of the text.
        tile_len: of flash attention, for the variants with a softmax table; None = whole tables.
    Returns: kind -> `kept` bytes over all layers, `work` operations for one new token over all layers, `largest` bytes
        of the largest tensor while a layer reads the text.
    """
    costs = {}
    for kind in KINDS:
        tiles = tile_len if kind in SOFTMAX_KINDS else None
        costs[kind] = {
            "kept": BYTES * n_layers * kept_floats(kind, sizes, n_tokens),
            "work": n_layers * step_flops(kind, sizes, n_tokens),
            "largest": BYTES * largest_tensor(kind, sizes, n_tokens, tiles),
        }
    return costs


def readable_amount(number: float, unit: str) -> str:
    r"""A number with a prefix: powers of 1024 for bytes, of 1000 for all else.

    Args:
        number: at least 0.
        unit: "B" for bytes, or another.
    Returns: at most four figures and the unit, such as "2.5 GiB".
    """
    base, letters = (1024, "KMGTPE") if unit == "B" else (1000, "kMGTPE")
    prefix = ""
    for letter in letters:
        if number < base:
            break
        number, prefix = number / base, letter + ("i" if unit == "B" else "")
    return f"{number:.0f} {prefix}{unit}" if number >= 100 or number == int(number) else f"{number:.1f} {prefix}{unit}"


def cost_picture(tokens: int, n_kv_heads: int, kv_rank: int, window: int, tiles: bool) -> Figure:
    r"""Three rows of bars over the variants: what is kept, the work of one token, the largest tensor.

    Args:
        tokens: length of the text.
        n_kv_heads: of GQA.
        kv_rank: of MLA.
        window: of the sliding window.
        tiles: whether scores are computed in tiles, as flash attention does.
    Returns: the picture, for 32 layers of the sizes `WIDE`.
    """
    sizes = replace(WIDE, n_kv_heads=n_kv_heads, kv_rank=kv_rank, window=window)
    costs = explored_costs(sizes, 32, tokens, TILE_LEN if tiles else None)
    figure, panels = new_figure(3, width=10.2, height=3.9)
    titles = {"kept": ("kept between tokens", "B"), "work": ("work for the next token", "FLOP"),
              "largest": ("largest tensor while reading", "B")}  # fmt: skip
    for axes, (measure, (title, unit)) in zip(panels, titles.items(), strict=True):
        draw_amounts(axes, {kind: cost[measure] for kind, cost in costs.items()}, unit)
        axes.set_title(title, fontsize=10, color=INK)
    return figure


def draw_amounts(axes: Axes, amounts: Mapping[str, float], unit: str) -> None:
    r"""Horizontal bars on a logarithmic scale, each with its amount in words.

    Args:
        axes: the panel.
        amounts: a number above 0 for each label.
        unit: see `readable_amount`.
    """
    colours = [COLOURS[0] if kind in SOFTMAX_KINDS else COLOURS[1] for kind in amounts]
    bars = axes.barh(range(len(amounts)), list(amounts.values()), color=colours, height=0.66, log=True)
    axes.set_yticks(range(len(amounts)), list(amounts))
    axes.invert_yaxis()
    labels = [readable_amount(number, unit) for number in amounts.values()]
    axes.bar_label(bars, labels, padding=3, fontsize=8, color=INK)
    low, high = min(amounts.values()), max(amounts.values())
    axes.set_xlim(low / 6, high * (high / low) ** 0.5 * 12)
    axes.set_xticks([])
    axes.minorticks_off()
    axes.spines["bottom"].set_visible(False)


def cost_controls() -> dict[str, Widget]:
    r"""The controls of the explorer: length, key heads, latent width, window, tiles.

    Returns: a widget for each argument of `cost_picture`.
    """
    look = {"style": {"description_width": "8em"}, "layout": {"width": "34em"}}
    heads = [n for n in range(1, WIDE.n_heads + 1) if WIDE.n_heads % n == 0]
    return {
        "tokens": SelectionSlider(options=LENGTHS, value=2**14, description="tokens", **look),
        "n_kv_heads": SelectionSlider(options=heads, value=8, description="key heads of GQA", **look),
        "kv_rank": IntSlider(value=512, min=64, max=2048, step=64, description="latent of MLA", **look),
        "window": SelectionSlider(options=LENGTHS, value=2**12, description="window", **look),
        "tiles": Dropdown(options={"whole tables": False, "in tiles (flash)": True}, value=False,
                          description="scores", **look),
    }  # fmt: skip


def growth_picture(sizes: AttentionSizes, n_layers: int, kinds: Sequence[str], level: tuple[float, str]) -> Figure:
    r"""How the memory between tokens grows with the text, a curve for each variant.

    Args:
        sizes: of one layer.
        n_layers: L.
        kinds: which variants.
        level: bytes, and what has so many: a level line.
    Returns: the picture.
    """
    figure, (axes,) = new_figure(width=7.4, height=3.6)
    lengths = [2**n for n in range(8, 21)]
    for number, kind in enumerate(kinds):
        kept = [BYTES * n_layers * kept_floats(kind, sizes, length) for length in lengths]
        axes.plot(lengths, kept, label=kind, color=COLOURS[number], linestyle=DASHES[number], linewidth=2)
        axes.text(lengths[-1] * 1.15, kept[-1], f"{kind}: {readable_amount(kept[-1], 'B')}", fontsize=9, va="center",
                  color=INK)  # fmt: skip
    axes.axhline(level[0], color=INK, linewidth=1, linestyle=(0, (2, 2)))
    axes.text(lengths[0], level[0] * 1.25, level[1], fontsize=9, color=INK)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xlim(lengths[0], lengths[-1])
    axes.set_xticks([2**8, 2**12, 2**16, 2**20], ["256", "4,096", "65,536", "1,048,576"])
    marks = [2**20, 2**24, 2**28, 2**32, 2**36, 2**40]
    axes.set_yticks(marks, [readable_amount(mark, "B") for mark in marks])
    axes.minorticks_off()
    axes.grid(color=PALE, linewidth=0.6)
    axes.set_xlabel("tokens read so far", fontsize=9, color=INK)
    axes.set_title("What a model must keep of a text", fontsize=10, color=INK)
    return figure
