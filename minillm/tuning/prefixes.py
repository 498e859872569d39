r"""Prefix tuning: trained keys and values in every layer, which every token may read."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minillm.config.require import require
from minillm.layers import heads, masks
from minillm.layers.attention import Attention
from minillm.layers.reading import read_and_report
from minillm.tuning.card import signed
from minillm.tuning.encoders import PrefixEncoder, PrefixTrunk, Vectors
from minillm.tuning.prompts import first_ids
from minillm.tuning.swapping import swapped


def prefix_kv(
    k: Float[Tensor, "B Hk T Dh"],
    v: Float[Tensor, "B Hk T Dh"],
    prefix_k: Float[Tensor, "Hk l Dh"],
    prefix_v: Float[Tensor, "Hk l Dh"],
    kv_positions: Int[Tensor, "*b T"],
) -> tuple[Float[Tensor, "B Hk l_T Dh"], Float[Tensor, "B Hk l_T Dh"], Int[Tensor, "*b l_T"]]:
    r"""More keys and values in front of a layer's own, at position 0, where every real query sees them.

    They are joined along the axis of tokens, not added: each query now divides its attention among l + T keys. Nothing
    is rotated, and the tokens keep their positions.

    Args:
        k: the layer's keys, (B, Hk, T, Dh), float.
        v: its values, the same shape.
        prefix_k: keys of the prefix, the same for all texts, (Hk, l, Dh), float.
        prefix_v: values of the prefix.
        kv_positions: positions of the keys, (T,) or (B, T), int; -1 = padding.
    Returns: keys and values, (B, Hk, l + T, Dh), in the dtypes of k and v, and positions, (l + T,) or (B, l + T).
    Source: Li and Liang 2021, Prefix-Tuning, section 4.2; for its effect He et al. 2022, Towards a Unified View of
        Parameter-Efficient Transfer Learning, section 3.1.
    Lesson: 13.
    """
    k, v = (torch.cat([prefix.to(own.dtype).expand(len(own), *prefix.shape), own], dim=2)
            for prefix, own in ((prefix_k, k), (prefix_v, v)))
    first = kv_positions.new_zeros(*kv_positions.shape[:-1], prefix_k.shape[1])
    return k, v, torch.cat([first, kv_positions], dim=-1)


class PrefixReading(nn.Module):
    r"""How queries read where there is a prefix: an attention's `reading`.

    The cache holds the tokens alone; the prefix is put in front each time. Neither a window nor a bias by distance
    reaches it: every real query sees it whole.

    Args:
        prefix: module () -> (l, 2 * Hk * Dh): a key and a value for each key/value head.
        n_kv_heads: Hk.
        bias_rule: of the attention.
        scale: of the attention.
        reading: of the attention.
    Source: Li and Liang 2021, Prefix-Tuning, section 4.2.
    Lesson: 13.
    """

    def __init__(
        self,
        prefix: nn.Module,
        n_kv_heads: int,
        bias_rule: Callable[[Tensor, Tensor], Tensor] | None = None,
        scale: float | None = None,
        reading: nn.Module | None = None,
    ):
        super().__init__()
        self.prefix, self.n_kv_heads = prefix, n_kv_heads
        self.bias_rule, self.scale, self.reading = bias_rule, scale, reading

    def key_values(self) -> tuple[Float[Tensor, "Hk l Dh"], Float[Tensor, "Hk l Dh"]]:
        r"""The prefix as keys and values. Lesson: 13."""
        prefix_k, prefix_v = rearrange(self.prefix(), "l (two h d) -> two h l d", two=2, h=self.n_kv_heads)
        return prefix_k, prefix_v

    def forward(
        self,
        q: Float[Tensor, "B H Tq Dh"],
        k: Float[Tensor, "B H Tk Dh"],
        v: Float[Tensor, "B H Tk Dh"],
        positions: Int[Tensor, "*b Tq"],
        kv_positions: Int[Tensor, "*b Tk"],
        mask: Bool[Tensor, "*any Tq Tk"],
    ) -> Float[Tensor, "B H Tq Dh"]:
        r"""Let the queries read from the prefix and from the tokens that they may see.

        Args:
            q: queries, (B, H, Tq, Dh).
            k: keys of the tokens, as many heads.
            v: values.
            positions: of the queries; -1 = padding.
            kv_positions: of the keys.
            mask: who sees which token, (Tq, Tk) or (B, 1, Tq, Tk).
        Returns: (B, H, Tq, Dh).
        """
        repeated = heads.repeat_kv(torch.stack(self.key_values()), q.shape[1] // self.n_kv_heads)
        k, v, all_positions = prefix_kv(k, v, *repeated, kv_positions)
        length = repeated.shape[2]
        seen = masks.for_heads(masks.causal_mask(positions, all_positions[..., :length]))
        mask = torch.cat([seen, mask], dim=-1)
        if self.reading is not None:
            return self.reading(q, k, v, positions, all_positions, mask)
        bias = None if self.bias_rule is None else self.bias_rule(positions, kv_positions).to(q.dtype)
        return read_and_report(q, k, v, mask, None if bias is None else F.pad(bias, (length, 0)), self.scale)


def prefix_tuning(
    model: nn.Module, length: int = 20, encoder_width: int | None = None, generator: torch.Generator | None = None
) -> nn.Module:
    r"""A model with trained keys and values before those of every layer, made by one network while they are learned.

    Args:
        model: whose blocks hold `Attention`; not changed, its numbers are shared.
        length: l, virtual tokens in every layer.
        encoder_width: of the table that the network reads, and of its hidden layer; None = d_model.
        generator: source of randomness; None means torch's global one.
    Returns: a new model, called like the old one. `minillm.tuning.finished` discards the network: what is left, and
        what a file then holds, are 2 * n_layers * length * Hk * Dh numbers.
    Raises:
        ValueError: if an argument is out of range, or a block has latent attention.
    Source: Li and Liang 2021, Prefix-Tuning, sections 4.2 and 4.3.
    Lesson: 13.
    """
    width = model.config.d_model if encoder_width is None else encoder_width
    require(isinstance(length, int) and length >= 1, "length", length, "use a whole number of at least 1")
    require(isinstance(width, int) and width >= 1, "encoder_width", width, "use a whole number of at least 1")
    like = next(model.parameters())
    rows = torch.randn(length, width, generator=generator)
    trunk = PrefixTrunk(rows.to(like.device, torch.promote_types(like.dtype, torch.float32)), generator)
    prefixes = [PrefixEncoder(trunk, _row_width(attn), generator) for attn in _attentions(model)]
    return signed(_with_prefixes(model, prefixes), model, "prefix_tuning", length=length, encoder_width=encoder_width)


def p_tuning_v2(
    model: nn.Module,
    length: int = 20,
    init_ids: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
) -> nn.Module:
    r"""A model with keys and values before those of every layer, which are trained themselves.

    They begin as the keys and values that the model has for some text.

    Args:
        model: a GPT whose blocks hold `Attention`; not changed, its numbers are shared.
        length: l, virtual tokens in every layer.
        init_ids: tokens of the text, over and over until there are enough; None = tokens drawn at random.
        generator: source of randomness; None means torch's global one.
    Returns: a new model, called like the old one; 2 * n_layers * length * Hk * Dh numbers are trained.
    Raises:
        ValueError: if an argument is out of range, or a block has latent attention.
    Source: Liu et al. 2022, P-Tuning v2, section 3, without its classification head; the beginning is that of Li and
        Liang 2021, section 7.4, "real words".
    Lesson: 13.
    """
    ids = first_ids(model, length, init_ids, generator)[None].to(next(model.parameters()).device)
    _attentions(model)
    cache = model.new_cache(1, length)
    with torch.no_grad():
        model.hidden(ids, cache=cache)
    prefixes = []
    for layer in cache:
        newest = slice(layer.length - length, layer.length)
        rows = torch.stack([part[0, :, newest] for part in layer.memory()[:2]])
        prefixes.append(Vectors(rearrange(rows.to(torch.promote_types(rows.dtype, torch.float32)),
                                          "two h l d -> l (two h d)")))
    return signed(_with_prefixes(model, prefixes), model, "p_tuning_v2", length=length)


def _attentions(model: nn.Module) -> list[Attention]:
    attentions = [block.attn for block in model.blocks]
    for attn in attentions:
        if not isinstance(attn, Attention):
            raise ValueError(f"model: its attention is {type(attn).__name__}, which keeps no keys and values of heads, "
                             "so that nothing can stand before them; use prompt_tuning or lora")
    return attentions


def _row_width(attn: Attention) -> int:
    return 2 * attn.k_proj.weight.shape[0]


def _with_prefixes(model: nn.Module, prefixes: Sequence[nn.Module]) -> nn.Module:
    left = iter(prefixes)

    def with_prefix(name: str, module: nn.Module) -> nn.Module | None:
        if not isinstance(module, Attention):
            return None
        module.reading = PrefixReading(next(left), module.n_kv_heads, module.bias_rule, module.scale, module.reading)
        return module  # the copy's own

    return swapped(model, with_prefix)
