r"""The choices within a block and at both ends of the model, each a small frozen type."""

from dataclasses import dataclass

from minillm.config.require import require


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
class Experts:
    r"""A mixture of experts: n_experts gated FFNs of width d_ff, of which a router gives each token top_k.

    `capacity_factor` bounds the tokens of one expert to factor * top_k * tokens / n_experts; None: no bound.
    Lesson: 06.
    """

    n_experts: int
    top_k: int
    d_ff: int
    activation: str = "silu"
    capacity_factor: float | None = None

    def __post_init__(self):
        require(1 <= self.top_k <= self.n_experts, "ffn.top_k", self.top_k, f"use 1 to n_experts={self.n_experts}")
        require(self.capacity_factor is None or self.capacity_factor > 0, "ffn.capacity_factor", self.capacity_factor,
                "use a positive number such as 1.25, or None")


@dataclass(frozen=True)
class Norm:
    r"""The kind of normalization, `layer` or `rms`; eps stands inside the root. Lesson: 05."""

    kind: str = "layer"
    eps: float = 1e-5
    bias: bool = True

    def __post_init__(self):
        require(self.kind in ("layer", "rms"), "norm.kind", self.kind, "use 'layer' or 'rms'")
        require(self.eps > 0, "norm.eps", self.eps, "use a small positive number such as 1e-5")


@dataclass(frozen=True)
class AttentionOptions:
    r"""What attention may have beside heads.

    Biases; a window in tokens (None: the whole past; a tuple: one entry a layer); QK-norm, which normalizes each
    head's query and key with the model's kind of norm; a scale on the scores (None: 1 / sqrt(Dh)).
    Lesson: 03.
    """

    qkv_bias: bool = False
    o_bias: bool = False
    window: int | None | tuple[int | None, ...] = None
    qk_norm: bool = False
    scale: float | None = None

    def __post_init__(self):
        if isinstance(self.window, list):  # JSON has no tuples
            object.__setattr__(self, "window", tuple(self.window))
        for window in self.window if isinstance(self.window, tuple) else (self.window,):
            require(window is None or window >= 1, "attention.window", self.window, "use at least 1, or None")

    def window_of(self, layer: int) -> int | None:
        r"""The window of one layer.

        Args:
            layer: its index.
        Returns: tokens, the query itself included; None = the whole past.
        Lesson: 03.
        """
        return self.window[layer] if isinstance(self.window, tuple) else self.window


@dataclass(frozen=True)
class Mla:
    r"""Multi-head latent attention: keys and values are made from one small vector a token, which alone is cached.

    `kv_rank` is that vector's width, `rope_dim` the width of the one rotated key that all heads share, `v_dim` the
    width of a head's value (None: head_dim); `q_rank` squeezes the queries likewise (None: it does not). `head_dim` of
    the model is the part of a head that is not rotated. `scale` on the scores; None: 1 / sqrt(head_dim + rope_dim).
    `norm_eps` of the norms on latents; None: the model's.
    Lesson: 03.
    """

    kv_rank: int
    rope_dim: int
    v_dim: int | None = None
    q_rank: int | None = None
    scale: float | None = None
    norm_eps: float | None = None

    def __post_init__(self):
        require(self.kv_rank >= 1, "attention.kv_rank", self.kv_rank, "use a whole number of at least 1")
        require(self.rope_dim >= 2 and self.rope_dim % 2 == 0, "attention.rope_dim", self.rope_dim,
                "use an even number: RoPE turns pairs")


@dataclass(frozen=True)
class Ends:
    r"""What stands before the first block and after the last.

    A factor on the tokens' vectors, a norm on the embedding; a bias on the logits and a factor on them.
    Lesson: 07.
    """

    embedding_scale: float = 1.0
    embedding_norm: bool = False
    head_bias: bool = False
    logit_scale: float = 1.0


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
        require(self.residual in ("scaled", "zero", "plain"), "init.residual", self.residual,
                "use 'scaled', 'zero' or 'plain'")
