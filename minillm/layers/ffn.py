r"""The feed-forward network of a block: two matrices, or three with a gate."""

from jaxtyping import Float
from torch import Tensor, nn

from minillm.layers import gated
from minillm.layers.activations import activation as activation_by_name


class MLP(nn.Module):
    r"""down(act(up(x))): each token on its own.

    Args:
        d_model: D, width in and out.
        d_ff: F, hidden width, used as given.
        activation: name of the activation.
        bias: whether the two matrices have biases.
    Source: Vaswani et al. 2017, section 3.3.
    Lesson: 06.
    """

    def __init__(self, d_model: int, d_ff: int, activation: str = "gelu", bias: bool = False):
        super().__init__()
        self.up_proj = nn.Linear(d_model, d_ff, bias=bias)
        self.down_proj = nn.Linear(d_ff, d_model, bias=bias)
        self.activation, self.act = activation, activation_by_name(activation)

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        return self.down_proj(self.act(self.up_proj(x)))


class GLU(nn.Module):
    r"""down(act(gate(x)) * up(x)): the gate decides, feature by feature, how much of up(x) passes.

    Args:
        d_model: D, width in and out.
        d_ff: F, hidden width, used as given (2/3 of an MLP's has the same number of weights).
        activation: name of the activation on the gate; `silu` makes it SwiGLU.
        bias: whether the three matrices have biases.
    Source: Shazeer 2020, GLU Variants Improve Transformer, equation 6.
    Lesson: 06.
    """

    def __init__(self, d_model: int, d_ff: int, activation: str = "silu", bias: bool = False):
        super().__init__()
        self.gate_proj = nn.Linear(d_model, d_ff, bias=bias)
        self.up_proj = nn.Linear(d_model, d_ff, bias=bias)
        self.down_proj = nn.Linear(d_ff, d_model, bias=bias)
        self.activation, self.act = activation, activation_by_name(activation)

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        if self.activation == "silu":  # the one that a learner writes
            return gated.swiglu(x, self.gate_proj, self.up_proj, self.down_proj)
        return gated.glu_form(x, self.gate_proj, self.up_proj, self.down_proj, self.act)
