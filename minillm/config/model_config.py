r"""The configuration of a model: everything that the assembly reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from minillm.config.parts import AttentionOptions, Ends, Experts, Glu, Init, Mla, Mlp, Norm
from minillm.config.positions import POSITIONS, Learned, Position, Rope, Shaw, Sinusoidal, TransformerXL
from minillm.config.require import require
from minillm.config.scaling import SCALINGS

FFNS = {"mlp": Mlp, "glu": Glu, "experts": Experts}
ATTENTIONS = {"heads": AttentionOptions, "mla": Mla}
RESIDUALS = ("pre", "post", "sandwich", "parallel", "deepnorm")
# Fields that hold one of several types; in JSON the type stands beside its fields, under "kind".
KINDS = {"ffn": FFNS, "position": POSITIONS, "attention": ATTENTIONS, "scaling": SCALINGS}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    r"""Everything that the assembly needs to know to build a model; the parts themselves never see it.

    Args:
        vocab_size: V, tokens in the vocabulary.
        max_seq_len: largest position + 1 that the model accepts.
        d_model: D, residual width.
        n_layers: L, blocks.
        n_heads: H, query heads.
        n_kv_heads: Hk, key/value heads; divides n_heads (H: multi-head, 1: multi-query, between: grouped).
        head_dim: Dh, features per head; free of d_model / n_heads.
        ffn: `Mlp`, `Glu` or `Experts`.
        position: one of the types of `minillm.config.positions`.
        norm: `Norm`, for every norm in the model.
        residual: `pre` (norm inside the branch), `post` (norm after the sum), `sandwich` (norms at both ends of the
            branch), `parallel` (attention and FFN side by side, each on its own norm) or `deepnorm` (post-norm with a
            heavier stream).
        attention: `AttentionOptions` or `Mla`.
        ends: `Ends`, what stands before the first block and after the last.
        tie_embeddings: whether lm_head is the token embedding itself.
        dropout: probability that a feature of a residual branch is dropped in training.
        init: `Init`.
    Raises:
        ValueError: if sizes do not fit together; the message names the field, its value and the fix.
    Lesson: 07.
    """

    vocab_size: int
    max_seq_len: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn: Mlp | Glu | Experts
    position: Position = Learned()
    norm: Norm = Norm()
    residual: str = "pre"
    attention: AttentionOptions | Mla = AttentionOptions()
    ends: Ends = Ends()
    tie_embeddings: bool = True
    dropout: float = 0.0
    init: Init = field(default=Init())

    def __post_init__(self):
        for name in ("vocab_size", "max_seq_len", "d_model", "n_layers", "n_heads", "n_kv_heads", "head_dim"):
            value = getattr(self, name)
            require(isinstance(value, int) and value >= 1, name, value, "use a whole number of at least 1")
        for name in ("ffn", "position", "attention"):
            value, kinds = getattr(self, name), KINDS[name]
            known = ", ".join(kind.__name__ for kind in kinds.values())
            require(type(value) in kinds.values(), name, value, f"use one of {known}")
        require(self.ffn.d_ff >= 1, "ffn.d_ff", self.ffn.d_ff, "use a whole number of at least 1")
        require(self.n_heads % self.n_kv_heads == 0, "n_kv_heads", self.n_kv_heads,
                f"use a divisor of n_heads={self.n_heads}")
        require(self.residual in RESIDUALS, "residual", self.residual, f"use one of {', '.join(RESIDUALS)}")
        require(0.0 <= self.dropout < 1.0, "dropout", self.dropout, "use a probability in [0, 1)")
        if isinstance(self.position, Rope) and isinstance(self.attention, AttentionOptions):
            require(self.rotary_dim() % 2 == 0 and self.rotary_dim() >= 2, "head_dim", self.head_dim,
                    "use an even number of turned features: RoPE turns pairs")
        if isinstance(self.position, Sinusoidal):
            require(self.d_model % 2 == 0, "d_model", self.d_model, "use an even number: sine and cosine are a pair")
        if isinstance(self.attention, Mla):
            require(type(self.position) is Rope, "position", self.position, "use Rope(): Mla has a rotated key")
        elif isinstance(self.position, Shaw | TransformerXL):
            require(self.attention.scale is None, "attention.scale", self.attention.scale,
                    "Shaw() and TransformerXL() scale by 1 / sqrt(Dh), use None")
        if isinstance(getattr(self.attention, "window", None), tuple):
            require(len(self.attention.window) == self.n_layers, "attention.window", self.attention.window,
                    f"use one entry for each of n_layers={self.n_layers}")

    def rotary_dim(self) -> int:
        r"""How many features of a head RoPE turns; 0 without RoPE. Lesson: 04."""
        if not isinstance(self.position, Rope):
            return 0
        return self.attention.rope_dim if isinstance(self.attention, Mla) else int(self.head_dim * self.position.share)

    def to_dict(self) -> dict[str, Any]:
        r"""The config as plain JSON data; `ModelConfig.from_dict` reads it back. Lesson: 07."""
        return _to_plain(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ModelConfig":
        r"""The config that `to_dict` wrote.

        Args:
            data: the mapping, as read from JSON.
        Returns: a validated config.
        Raises:
            ValueError: if a field is missing, unknown, or of an unknown kind.
        Lesson: 07.
        """
        try:
            data = {**data, "attention": {"kind": "heads", **data["attention"]}}  # checkpoints before Mla name no kind
            parts = {name: _from_plain(name, data[name]) for name in KINDS if name in data}
            fixed = {"norm": Norm, "ends": Ends, "init": Init}
            parts |= {name: kind(**data[name]) for name, kind in fixed.items() if name in data}
            return cls(**data | parts)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"data={data!r}: not a model config ({error}); write it with to_dict()") from error


def _to_plain(value: Any) -> dict[str, Any]:
    plain = {}
    for name in (item.name for item in fields(value)):
        inner = getattr(value, name)
        plain[name] = _to_plain(inner) if is_dataclass(inner) else inner
        if name in KINDS and inner is not None:
            plain[name] = {"kind": next(kind for kind, t in KINDS[name].items() if t is type(inner)), **plain[name]}
    return plain


def _from_plain(name: str, data: Mapping[str, Any]) -> Any:
    kind, kinds = data["kind"], KINDS[name]
    require(kind in kinds, f"{name}.kind", kind, f"use one of {sorted(kinds)}")
    inner = {key: _from_plain(key, value) if key in KINDS and value is not None else value
             for key, value in data.items() if key != "kind"}
    return kinds[kind](**inner)
