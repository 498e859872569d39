r"""What a model is made of: one small frozen dataclass, and presets by name."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any


def _require(ok: bool, argument: str, value: Any, fix: str) -> None:
    if not ok:
        raise ValueError(f"{argument}={value!r}: {fix}")


@dataclass(frozen=True)
class Mlp:
    r"""A two-matrix FFN: down(act(up(x))). Lesson: 06."""

    d_ff: int
    activation: str = "gelu"
    bias: bool = False


@dataclass(frozen=True)
class Glu:
    r"""A gated FFN of three matrices: down(act(gate(x)) * up(x)); SwiGLU with `silu`. Lesson: 06."""

    d_ff: int
    activation: str = "silu"
    bias: bool = False


@dataclass(frozen=True)
class Learned:
    r"""One trained vector for each position, added to the token's. Lesson: 04."""


@dataclass(frozen=True)
class Sinusoidal:
    r"""Fixed sines and cosines, added to the token's vector. Lesson: 04."""

    base: float = 10000.0


@dataclass(frozen=True)
class Rope:
    r"""Queries and keys turned by angles that grow with the position. Lesson: 04."""

    base: float = 10000.0


@dataclass(frozen=True)
class Alibi:
    r"""A penalty on the scores that grows with distance. Lesson: 04."""


@dataclass(frozen=True)
class NoPosition:
    r"""No position signal at all; the causal mask alone tells order. Lesson: 04."""


@dataclass(frozen=True)
class Norm:
    r"""The kind of normalization, `layer` or `rms`; eps stands inside the root. Lesson: 05."""

    kind: str = "layer"
    eps: float = 1e-5
    bias: bool = True

    def __post_init__(self):
        _require(self.kind in ("layer", "rms"), "norm.kind", self.kind, "use 'layer' or 'rms'")
        _require(self.eps > 0, "norm.eps", self.eps, "use a small positive number such as 1e-5")


@dataclass(frozen=True)
class AttentionOptions:
    r"""What attention may have beside heads: biases, and a window in tokens (None: the whole past). Lesson: 03."""

    qkv_bias: bool = False
    o_bias: bool = False
    window: int | None = None

    def __post_init__(self):
        _require(self.window is None or self.window >= 1, "attention.window", self.window, "use at least 1, or None")


@dataclass(frozen=True)
class Init:
    r"""Standard deviations of fresh weights, and what the last matrix of each residual branch gets.

    `residual` is `scaled` (GPT-2: std / sqrt(2 * n_layers)), `zero` (each block starts as the identity) or `plain`.
    Lesson: 07.
    """

    embedding_std: float = 0.02
    linear_std: float = 0.02
    residual: str = "scaled"

    def __post_init__(self):
        _require(self.residual in ("scaled", "zero", "plain"), "init.residual", self.residual,
                 "use 'scaled', 'zero' or 'plain'")


FFNS = {"mlp": Mlp, "glu": Glu}
POSITIONS = {"learned": Learned, "sinusoidal": Sinusoidal, "rope": Rope, "alibi": Alibi, "none": NoPosition}
_KINDS = {kind: name for table in (FFNS, POSITIONS) for name, kind in table.items()}


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
        ffn: `Mlp` or `Glu`.
        position: `Learned`, `Sinusoidal`, `Rope`, `Alibi` or `NoPosition`.
        norm: `Norm`, for every norm in the model.
        residual: `pre` (norm inside the branch) or `post` (norm after the sum).
        attention: `AttentionOptions`.
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
    ffn: Mlp | Glu
    position: Learned | Sinusoidal | Rope | Alibi | NoPosition = Learned()
    norm: Norm = Norm()
    residual: str = "pre"
    attention: AttentionOptions = AttentionOptions()
    tie_embeddings: bool = True
    dropout: float = 0.0
    init: Init = field(default=Init())

    def __post_init__(self):
        for name in ("vocab_size", "max_seq_len", "d_model", "n_layers", "n_heads", "n_kv_heads", "head_dim"):
            value = getattr(self, name)
            _require(isinstance(value, int) and value >= 1, name, value, "use a whole number of at least 1")
        _require(isinstance(self.ffn, Mlp | Glu), "ffn", self.ffn, "use Mlp(d_ff=...) or Glu(d_ff=...)")
        _require(self.ffn.d_ff >= 1, "ffn.d_ff", self.ffn.d_ff, "use a whole number of at least 1")
        _require(type(self.position) in POSITIONS.values(), "position", self.position,
                 "use Learned(), Sinusoidal(), Rope(), Alibi() or NoPosition()")
        _require(self.n_heads % self.n_kv_heads == 0, "n_kv_heads", self.n_kv_heads,
                 f"use a divisor of n_heads={self.n_heads}")
        _require(self.residual in ("pre", "post"), "residual", self.residual, "use 'pre' or 'post'")
        _require(0.0 <= self.dropout < 1.0, "dropout", self.dropout, "use a probability in [0, 1)")
        if isinstance(self.position, Rope):
            _require(self.head_dim % 2 == 0, "head_dim", self.head_dim, "use an even number: RoPE turns pairs")
        if isinstance(self.position, Sinusoidal):
            _require(self.d_model % 2 == 0, "d_model", self.d_model, "use an even number: sine and cosine are a pair")

    def to_dict(self) -> dict[str, Any]:
        r"""The config as plain JSON data; `ModelConfig.from_dict` reads it back. Lesson: 07."""
        data = asdict(self)
        for name in ("ffn", "position"):
            data[name] = {"kind": _KINDS[type(getattr(self, name))], **data[name]}
        return data

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
        data = {key: dict(value) if isinstance(value, Mapping) else value for key, value in data.items()}
        try:
            for name, kinds in (("ffn", FFNS), ("position", POSITIONS)):
                kind = data[name].pop("kind")
                _require(kind in kinds, f"{name}.kind", kind, f"use one of {sorted(kinds)}")
                data[name] = kinds[kind](**data[name])
            for name, kind in (("norm", Norm), ("attention", AttentionOptions), ("init", Init)):
                data[name] = kind(**data[name])
            return cls(**data)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"data={data!r}: not a model config ({error}); write it with to_dict()") from error


def _llama_like(**sizes: Any) -> dict[str, Any]:
    return dict(norm=Norm("rms", bias=False), position=Rope(), **sizes)


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": dict(  # its matrices start wider than GPT-2's: at 128 features 0.02 leaves attention blind for a long time
        vocab_size=128, max_seq_len=64, d_model=128, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=64,
        ffn=Mlp(512, "relu_squared"), norm=Norm("layer", bias=False), init=Init(0.1, 0.05, "zero")),
    "gpt2": dict(
        vocab_size=50257, max_seq_len=1024, d_model=768, n_layers=12, n_heads=12, n_kv_heads=12, head_dim=64,
        ffn=Mlp(3072, "gelu_tanh", bias=True), attention=AttentionOptions(qkv_bias=True, o_bias=True)),
    "gpt3": dict(
        vocab_size=50257, max_seq_len=2048, d_model=12288, n_layers=96, n_heads=96, n_kv_heads=96, head_dim=128,
        ffn=Mlp(49152, "gelu_tanh", bias=True), attention=AttentionOptions(qkv_bias=True, o_bias=True)),
    "llama-7b": _llama_like(
        vocab_size=32000, max_seq_len=2048, d_model=4096, n_layers=32, n_heads=32, n_kv_heads=32, head_dim=128,
        ffn=Glu(11008), tie_embeddings=False),
    "smollm2-135m": dict(_llama_like(
        vocab_size=49152, max_seq_len=8192, d_model=576, n_layers=30, n_heads=9, n_kv_heads=3, head_dim=64,
        ffn=Glu(1536)), position=Rope(base=100000.0)),
}


def preset(name: str, **changes: Any) -> ModelConfig:
    r"""A named configuration, with any field changed on the way.

    Args:
        name: one of `PRESETS`, e.g. `tiny` (the story writer), `gpt2`, `llama-7b`.
        changes: fields of `ModelConfig` to replace.
    Returns: a validated config.
    Raises:
        ValueError: if the name is unknown; the message lists the names.
    Source: GPT-2 and GPT-3 sizes: Radford et al. 2019, Brown et al. 2020, table 2.1 (GPT-3's sparse attention is left
        out); LLaMA: Touvron et al. 2023, table 2.
    Lesson: 07.
    """
    _require(name in PRESETS, "name", name, f"use one of {sorted(PRESETS)}")
    return replace(ModelConfig(**PRESETS[name]), **changes)
