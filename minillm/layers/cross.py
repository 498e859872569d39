r"""Cross-attention as a module: queries from one sequence, keys and values from another."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from minillm.layers import heads, masks
from minillm.layers.reading import read_and_report


class CrossAttention(nn.Module):
    r"""The tokens of x read from a memory, an encoder's output, say.

    Keys and values of the memory do not change while a decoder writes: `remember` makes them once for all steps.

    Args:
        d_model: D, width of x.
        memory_dim: Dm, width of the memory.
        n_heads: H.
        head_dim: Dh.
        qkv_bias: whether q_proj, k_proj and v_proj have biases.
        o_bias: whether o_proj has one.
        scale: factor on the scores; None = 1 / sqrt(Dh).
    Source: Vaswani et al. 2017, section 3.2.3.
    Lesson: 02.
    """

    def __init__(
        self,
        d_model: int,
        memory_dim: int,
        n_heads: int,
        head_dim: int,
        *,
        qkv_bias: bool = False,
        o_bias: bool = False,
        scale: float | None = None,
    ):
        super().__init__()
        self.n_heads, self.scale = n_heads, scale
        self.q_proj = nn.Linear(d_model, n_heads * head_dim, bias=qkv_bias)
        self.k_proj = nn.Linear(memory_dim, n_heads * head_dim, bias=qkv_bias)
        self.v_proj = nn.Linear(memory_dim, n_heads * head_dim, bias=qkv_bias)
        self.o_proj = nn.Linear(n_heads * head_dim, d_model, bias=o_bias)

    def remember(
        self, memory: Float[Tensor, "B Tk Dm"]
    ) -> tuple[Float[Tensor, "B H Tk Dh"], Float[Tensor, "B H Tk Dh"]]:
        r"""Keys and values of the memory.

        Args:
            memory: (B, Tk, Dm), float.
        Returns: keys and values, each (B, H, Tk, Dh).
        """
        return tuple(heads.split_heads(project(memory), self.n_heads) for project in (self.k_proj, self.v_proj))

    def forward(
        self,
        x: Float[Tensor, "B Tq D"],
        positions: Int[Tensor, "*bq Tq"],
        remembered: tuple[Tensor, Tensor],
        memory_positions: Int[Tensor, "*bk Tk"],
    ) -> Float[Tensor, "B Tq D"]:
        r"""Let each token of x read from the whole memory, but for its padding.

        Args:
            x: (B, Tq, D), float.
            positions: of x, (Tq,) or (B, Tq), int; -1 = padding.
            remembered: from `remember`.
            memory_positions: (Tk,) or (B, Tk), int; -1 = padding.
        Returns: (B, Tq, D), dtype of x.
        """
        q, (k, v) = heads.split_heads(self.q_proj(x), self.n_heads), remembered
        mask = masks.for_heads(masks.bidirectional_mask(positions, memory_positions))
        out = read_and_report(q, k, v, mask, scale=self.scale, name="cross_weights")
        return self.o_proj(heads.merge_heads(out))
