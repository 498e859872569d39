r"""One Transformer block: attention and FFN, each around a residual connection.

    pre-norm                          post-norm
    x ---------------+                x ---------------+
    |                |                |                |
    attn_norm        |                attn             |
    attn             |                |                |
    + <--------------+                + <--------------+
    x ---------------+                attn_norm
    |                |                x ---------------+
    ffn_norm         |                |                |
    ffn              |                ffn              |
    + <--------------+                + <--------------+
    x                                 ffn_norm
                                      x

In a parallel block both parts read the same stream, each through its own norm, and both answers are added. The other
forms (sandwich, DeepNorm) change the single branch: see `layers.residual`.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from minillm.layers import residual as branches

Part = Callable[[Tensor], Tensor]


def block_forward(
    x: Float[Tensor, "B T D"], attn: Part, ffn: Part, attn_norm: Part, ffn_norm: Part
) -> Float[Tensor, "B T D"]:
    r"""A pre-norm block: each part reads a normalized copy and adds its answer to the residual stream.

    Args:
        x: the residual stream, (B, T, D), float.
        attn: moves information between tokens, (B, T, D) -> (B, T, D).
        ffn: works on each token alone, (B, T, D) -> (B, T, D).
        attn_norm: the norm before attn.
        ffn_norm: the norm before ffn.
    Returns: (B, T, D), dtype of x.
    Source: Radford et al. 2019 (GPT-2), section 2.3; Xiong et al. 2020, figure 1b.
    Lesson: 07.
    """
    x = x + attn(attn_norm(x))
    return x + ffn(ffn_norm(x))


def post_norm_forward(
    x: Float[Tensor, "B T D"], attn: Part, ffn: Part, attn_norm: Part, ffn_norm: Part
) -> Float[Tensor, "B T D"]:
    r"""A post-norm block, as in the first Transformer: add first, then normalize the sum.

    Args:
        x: the residual stream, (B, T, D), float.
        attn: moves information between tokens, (B, T, D) -> (B, T, D).
        ffn: works on each token alone, (B, T, D) -> (B, T, D).
        attn_norm: the norm after the first sum.
        ffn_norm: the norm after the second sum.
    Returns: (B, T, D), dtype of x.
    Source: Vaswani et al. 2017, section 3.1.
    Lesson: 05.
    """
    x = branches.post_norm_branch(x, attn_norm, attn)
    return branches.post_norm_branch(x, ffn_norm, ffn)


def parallel_forward(
    x: Float[Tensor, "B T D"], attn: Part, ffn: Part, attn_norm: Part, ffn_norm: Part
) -> Float[Tensor, "B T D"]:
    r"""Attention and FFN side by side on the same stream: the FFN does not see what attention has just found.

    Args:
        x: the residual stream, (B, T, D), float.
        attn: moves information between tokens, (B, T, D) -> (B, T, D).
        ffn: works on each token alone, (B, T, D) -> (B, T, D).
        attn_norm: the norm before attn.
        ffn_norm: the norm before ffn.
    Returns: (B, T, D), dtype of x.
    Source: Black et al. 2022, GPT-NeoX-20B, section 2.1; Wang and Komatsuzaki 2021, GPT-J, with one norm for both.
    Lesson: 05.
    """
    return x + attn(attn_norm(x)) + ffn(ffn_norm(x))


class Block(nn.Module):
    r"""A block from its parts.

    Args:
        attn: an attention module, called as attn(x, positions, angles, cache).
        ffn: a module on (B, T, D).
        attn_norm: a norm.
        ffn_norm: a norm.
        residual: `pre`, `post`, `sandwich`, `parallel` or `deepnorm`: how the parts are joined.
        dropout: probability that a feature of either branch is dropped in training.
        attn_out_norm: the second norm of attention's branch; for `sandwich` only.
        ffn_out_norm: the second norm of the FFN's branch; for `sandwich` only.
        alpha: weight of the stream; for `deepnorm` only.
    Lesson: 07.
    """

    def __init__(
        self,
        attn: nn.Module,
        ffn: nn.Module,
        attn_norm: nn.Module,
        ffn_norm: nn.Module,
        residual: str = "pre",
        dropout: float = 0.0,
        attn_out_norm: nn.Module | None = None,
        ffn_out_norm: nn.Module | None = None,
        alpha: float = 1.0,
    ):
        super().__init__()
        self.attn_norm, self.attn, self.ffn_norm, self.ffn = attn_norm, attn, ffn_norm, ffn
        self.attn_out_norm, self.ffn_out_norm = attn_out_norm, ffn_out_norm
        self.dropout = nn.Dropout(dropout)
        self.residual, self.alpha = residual, alpha

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        positions: Int[Tensor, "*b T"],
        angles: Float[Tensor, "..."] | None = None,
        cache: Any = None,
    ) -> Float[Tensor, "B T D"]:
        def attend(h: Tensor) -> Tensor:
            return self.dropout(self.attn(h, positions, angles, cache))

        def feed(h: Tensor) -> Tensor:
            return self.dropout(self.ffn(h))

        parts = (x, attend, feed, self.attn_norm, self.ffn_norm)
        if self.residual == "pre":
            return block_forward(*parts)
        if self.residual == "post":
            return post_norm_forward(*parts)
        if self.residual == "parallel":
            return parallel_forward(*parts)
        if self.residual == "sandwich":
            x = branches.sandwich_branch(x, self.attn_norm, self.attn_out_norm, attend)
            return branches.sandwich_branch(x, self.ffn_norm, self.ffn_out_norm, feed)
        x = branches.deepnorm_branch(x, self.attn_norm, attend, self.alpha)
        return branches.deepnorm_branch(x, self.ffn_norm, feed, self.alpha)
