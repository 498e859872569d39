# %% [markdown]
# # 06 FFN and GLU
#
# Attention carries information between tokens. What is then done with it happens in the FFN, the feed-forward network:
# two thirds of a block's weights, used for each token alone. You will build its parts: the bend in the middle (GELU,
# Swish), the gate that most models since LLaMA have (SwiGLU), and the router of a mixture of experts, with the loss
# that keeps it fair and the queue that can leak the future.
#
# | | |
# |---|---|
# | **You need** | lesson 00 (softmax); for the experiments on text, a look at lesson 07 helps |
# | **Time** | about an hour for the seven exercises, as much again for the rest |
# | **Runs on** | any CPU with 2 GB; all cells together less than a minute, most of it training small networks |
#
# **Sources.** Vaswani et al. 2017, section 3.3; Hendrycks and Gimpel 2016 (GELU), section 2; Ramachandran et al. 2017
# (Swish), section 4; Dauphin et al. 2016 (GLU), section 2; Shazeer 2020 (GLU variants), equations 5 and 6; Touvron et
# al. 2023 (LLaMA), section 2.2; Shazeer et al. 2017 and Fedus et al. 2021 (experts), sections 2; Jiang et al. 2024
# (Mixtral), section 2.1; Geva et al. 2021 (an FFN as a memory), section 2.
#
# An exercise is three cells: the task with folded hints, a cell for your function, and a check that tells you which
# mistake you made. Until yours is right, the lesson goes on with the course's own.

# %% [markdown]
# ## Four ways to bend a line

# %% name="four_bends"
import math

import torch
import torch.nn.functional as F
from torch import nn

from minillm.course import check, hint, mine, plots, reset, solution  # noqa: F401
from minillm.course.scenes.gate_pictures import bends_picture, ffn_forms, losses_picture
from minillm.layers import activations

torch.set_num_threads(1)  # these networks are small: a second thread would only wait for the first
bends = {"ReLU": activations.relu, "ReLU squared": activations.relu_squared, "GELU": F.gelu, "Swish": F.silu}
picture = bends_picture(bends)
plots.show(picture, alt="ReLU, ReLU squared, GELU and Swish: flat or slightly below 0 on the left, rising on the right")

# %% [markdown]
# An FFN is a matrix, a bend, a matrix. The first matrix asks `d_ff` questions about the token's vector, the bend
# decides which answers count, the second matrix turns what counts into a change of the vector:
#
# $$\mathrm{FFN}(x) = f(x W_{up} + b_1)\, W_{down} + b_2$$
#
# The four curves are candidates for $f$. They look much alike. Whether it matters which one you take is a question for
# an experiment, further down.
#
# ## One token, three hidden features
#
# By hand, with two features in the stream and three hidden ones. The rows of `up` are the questions: the sum of both
# features, their difference, and minus the second. The columns of `down` are the answers.

# %% name="one_token_by_hand" tags=["compare"]
up = torch.tensor([[1.0, 1.0], [1.0, -1.0], [0.0, -1.0]])
down = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]])
for token in (torch.tensor([2.0, -1.0]), torch.tensor([-1.0, 2.0])):
    asked = up @ token
    counts = activations.relu(asked)
    print(f"x {token.tolist()}  up {asked.tolist()}  bent {counts.tolist()}  down {(down @ counts).tolist()}")
assert (down @ counts).tolist() == [1.0, 0.0], "the second token opens the first hidden feature only"

# %% [markdown]
# The first token opens all three hidden features, the second one opens one. Which features are open depends on the
# token, and among tokens that open the same ones the network is a plain matrix. So an FFN with ReLU is a large set of
# matrices, and the token picks one of them.
#
# ### Each token alone
#
# The same weights are used at each position, and nothing passes between positions.
#
# **Predict.** Eight tokens go through an FFN, and you change the token at position 3. At how many positions does the
# output change? And how many weights does the FFN have, with `d_model` 48, `d_ff` 192 and both biases?

# %%
guess_positions, guess_weights = "?", "?"

# %% name="each_token_by_itself" tags=["compare"]
from torch.utils.flop_counter import FlopCounterMode

from minillm.layers.ffn import GLU, MLP

torch.manual_seed(0)
d_model = 48
ffn = MLP(d_model, 4 * d_model, bias=True).double()
x = torch.randn(1, 8, d_model, dtype=torch.float64)
changed = x.clone()
changed[0, 3] = torch.randn(d_model, dtype=torch.float64)
moves = (ffn(changed) - ffn(x))[0].abs().amax(-1)
n_weights = sum(parameter.numel() for parameter in ffn.parameters())
with FlopCounterMode(display=False) as counter:
    ffn(x)
flops = counter.get_total_flops() // 8
assert (moves > 0).nonzero().flatten().tolist() == [3] and moves[3] > 0.01
assert n_weights == 8 * d_model**2 + 5 * d_model and flops == 16 * d_model**2
print(f"outputs that move: {(moves > 0).nonzero().flatten().tolist()} - you said {guess_positions}")
print(f"weights: {n_weights:,} = 8 D² + 5 D - you said {guess_weights}")
print(f"operations a token, in the matrices: {flops:,} = 16 D²")

# %% [markdown]
# The seven others move by exactly 0. It is therefore wrong to say that an FFN "transforms the position-encoded
# sequence": it never sees a sequence. It sees one vector, in which attention has gathered what that token needs, and it
# does so in every block, of encoders and decoders alike.
#
# ### What it is for, and what not
#
# Two thirds of a block's weights stand here. What are they good for? One answer that has stood the test is *memory*
# (Geva et al. 2021): a row of `up_proj` is a key that is compared with the token, a column of `down_proj` the value
# that is added if it fits. Write 200 facts into an FFN by hand, without any training:

# %% name="facts_in_an_ffn" tags=["compare"]
generator = torch.Generator().manual_seed(1)
n_facts, d_model = 200, 64
keys = F.normalize(torch.randn(n_facts, d_model, generator=generator), dim=-1)
values = F.normalize(torch.randn(n_facts, d_model, generator=generator), dim=-1)
threshold = 0.7  # only a key that fits as well as this opens its hidden feature


def look_up(questions):
    return activations.relu(questions @ keys.T - threshold) @ values


answers = look_up(F.normalize(keys + 0.05 * torch.randn(keys.shape, generator=generator), dim=-1))
found = (answers @ values.T).argmax(-1)
assert torch.equal(found, torch.arange(n_facts))
assert (look_up(-keys) == 0).all()
print(f"{n_facts} facts in {n_facts} hidden features: asked with noise, {(found == torch.arange(n_facts)).sum()} found")
print("asked for something that is not there: the answer is 0, and the stream stays as it was")

# %% [markdown]
# Another answer is popular and does not stand the test: that the FFN *prevents vanishing gradients*. Stack 24 of them
# and look at the gradient that arrives at the input.

# %% name="share_of_a_block" tags=["compare"]
gpt, llama = 8 * 768**2 / (12 * 768**2), 3 * 4096 * 11008 / (3 * 4096 * 11008 + 4 * 4096**2)
print(f"share of the FFN in a block's matrices: GPT-2 {gpt:.4f}, LLaMA-7B {llama:.4f}")
assert (round(gpt, 4), round(llama, 4)) == (0.6667, 0.6684)


def input_gradient(layers, residual):
    x = torch.randn(16, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    y = x
    for layer in layers:
        y = y + layer(y) if residual else layer(y)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    return gradient.norm().item()


for seed in range(3):
    torch.manual_seed(seed)
    layers = [MLP(64, 256).double() for _ in range(24)]
    bare, with_residual = input_gradient(layers, residual=False), input_gradient(layers, residual=True)
    assert bare < 1e-6 and with_residual > 1
print("24 FFNs, one after another: the gradient at the input is below a millionth of what it is with residuals")

# %% [markdown]
# What keeps the gradient alive is the residual connection, with norms (lesson 05). The FFN is what these protect
# against. (The same answer often adds that attention is *essentially linear*, so that all bending is left to the FFN.
# Lesson 02 measured that: attention's weights are a softmax of products of its input, and it is far from linear.)

# %% [markdown]
# ## Why there has to be a bend
#
# Take the bend away. Two matrices in a row are one matrix, and of rank D at most, however wide the middle is: all that
# width is for nothing.

# %% name="without_a_bend" tags=["compare"]
d_model = 32
torch.manual_seed(0)
straight, bent = (MLP(d_model, 4 * d_model, activation).double() for activation in ("identity", "relu"))
bent.load_state_dict(straight.state_dict())
one_matrix = straight.down_proj.weight @ straight.up_proj.weight
x, y = torch.randn(2, 500, d_model, dtype=torch.float64)
assert (straight(x) - x @ one_matrix.T).abs().max() < 1e-10
additive = {name: ((f(x + y) - f(x) - f(y)).norm() / f(x + y).norm()).item()
            for name, f in (("no bend", straight), ("ReLU", bent))}
assert additive["no bend"] < 1e-12 and additive["ReLU"] > 0.1
zeros = (activations.relu(bent.up_proj(x)) == 0).double().mean().item()
assert 0.45 < zeros < 0.55
print(f"no bend: {4 * d_model} hidden features, and the whole is one matrix of rank "
      f"{torch.linalg.matrix_rank(one_matrix)}")
print("f(x + y) = f(x) + f(y)?  without a bend yes, with ReLU no")
print(f"a fresh ReLU shuts about {zeros:.1f} of the hidden features for each token")

# %% [markdown]
# Half of the hidden features are shut by a fresh ReLU, since half of all random numbers are negative. In large trained
# models it is often more than nine in ten (Li et al. 2022), and which ones are open differs from token to token.
#
# ## GELU: keep x with the probability that it deserves
#
# ReLU is a switch: shut below 0, open above. GELU makes it a matter of chance. Draw a standard normal number z, and let
# x through if z is below it. A large x passes nearly always, a very negative one hardly ever. What passes *on average*
# is x times the probability that z is below x, called $\Phi(x)$:
#
# $$\mathrm{GELU}(x) = x\,\Phi(x) = \frac{x}{2}\left(1 + \mathrm{erf}\frac{x}{\sqrt 2}\right)$$

# %% name="gelu_is_an_average" tags=["compare"]
z = torch.randn(400_000, generator=torch.Generator().manual_seed(0))
for x in (-2.0, -0.5, 1.0, 3.0):
    passed = torch.where(z < x, x, 0.0).mean().item()
    exact = activations.gelu(torch.tensor(x)).item()
    print(f"x {x:4.1f}: on average {passed:6.2f} passes, x Phi(x) = {exact:6.2f}")
    assert abs(passed - exact) < 0.006

# %% [markdown]
# erf was slow once, and so the paper gives an approximation by tanh. GPT-2 was trained with it, and it is the formula
# that you are asked for in an interview.

# %% exercise="layers.activations.gelu_tanh"

# %% [markdown]
# ### How good is it, and what if the cube is missing?
#
# In many collections of interview answers the formula stands without the cube: $x + 0.044715\,x$. **Predict:** how much
# worse is that? Twice? Ten times?

# %%
guess_worse = "?"  # how many times as wrong

# %% name="the_cube_matters" tags=["compare"]
x = torch.linspace(-6, 6, 12001, dtype=torch.float64)
exact = activations.gelu(x)
without_cube = x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x)))
errors = {"with the cube": gelu_tanh(x) - exact, "without it": without_cube - exact,
          "x sigmoid(1.702 x)": x * torch.sigmoid(1.702 * x) - exact}
for name, error in errors.items():
    worst = error.abs().argmax()
    print(f"{name:19s} off by at most {error.abs().max():.5f}, at |x| = {x[worst].abs():.2f}")
good, bad = (errors[name].abs().max().item() for name in ("with the cube", "without it"))
assert good < 1e-3 and bad > 0.02 and abs(abs(x[errors["without it"].abs().argmax()]) - 2.20) < 0.02
print(f"without the cube it is {bad / good:.0f} times as wrong - you said {guess_worse}")
zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
(slope,) = torch.autograd.grad(gelu_tanh(zero), zero)
assert slope.isclose(torch.tensor(0.5, dtype=torch.float64))

figure, (axes,) = plots.new_figure(width=6.6, height=3.2)
plots.line_chart(axes, {name: (x, error) for name, error in errors.items()}, "Distance from the exact GELU", "x")
plots.show(figure, alt="The tanh form stays on the zero line; without the cube, and with a sigmoid, it is off by 0.02")

# %% [markdown]
# 0.0005 is little, but it is not nothing: a model that was trained with one form and is run with the other gives
# slightly different logits in every layer. Which one is meant stands in the configuration: `gelu` is the exact one,
# `gelu_new` and `gelu_pytorch_tanh` are the tanh form, `quick_gelu` is the sigmoid (CLIP).
#
# ## Swish: a sigmoid as the gate
#
# The fourth curve of the picture is simpler still: x times a sigmoid of x, and a number $\beta$ that says how sharp the
# bend is. With $\beta = 1$ it is also called SiLU, and it is what LLaMA uses.

# %% exercise="layers.activations.swish"

# %% name="swish_from_line_to_relu" tags=["compare"]
x = torch.linspace(-5, 5, 100_001, dtype=torch.float64)
assert torch.equal(swish(x, 0.0), x / 2)
lowest = swish(x, 1.0).min(dim=0)
assert abs(lowest.values + 0.278465) < 1e-6 and abs(x[lowest.indices] + 1.2785) < 1e-4
print("beta 0:    x / 2, a straight line")
print(f"beta 1:    lowest value {lowest.values:.4f} at x = {x[lowest.indices]:.4f}: it falls before it rises")
for beta in (1.0, 10.0, 100.0):
    gap = (swish(x, beta) - F.relu(x)).abs().max().item()
    assert abs(gap - 0.278465 / beta) < 1e-5
    print(f"beta {beta:4.0f}: never further from ReLU than {gap:.4f} = 0.2785 / beta")

figure, (axes,) = plots.new_figure(width=5.6, height=3.0)
plots.line_chart(axes, {f"beta {b:g}": (x[::500], swish(x, b)[::500]) for b in (0.0, 0.5, 1.0, 10.0)}, "Swish", "x")
plots.show(figure, alt="Swish turns from the line x/2 at beta 0 to ReLU as beta grows, with a dip below 0 between")

# %% [markdown]
# $\beta$ is a constant, or it is trained (the paper has both). Use your function for the latter: let it find the
# $\beta$ with which Swish comes nearest to GELU.
#
# **Predict.** Below 1, between 1 and 2, or above 2?

# %%
guess_beta = "?"

# %% name="a_beta_that_is_trained" tags=["compare"]
x = torch.linspace(-4, 4, 801)
found_betas = []
for start in (0.1, 1.0, 5.0):
    beta = torch.tensor(start, requires_grad=True)
    optimizer = torch.optim.Adam([beta], lr=0.1)
    for _ in range(400):
        optimizer.zero_grad()
        (swish(x, beta) - F.gelu(x)).square().mean().backward()
        optimizer.step()
    found_betas.append(beta.item())
print(f"started at 0.1, 1 and 5, beta ends at {[round(beta, 1) for beta in found_betas]} - you said {guess_beta}")
assert all(1.7 < beta < 1.85 for beta in found_betas)

# %% [markdown]
# The 1.702 of `quick_gelu` was found in the same way, with another measure: it brings the sigmoid as near to $\Phi$ as
# it will go, where you brought Swish near to GELU. The two curves are so close that one can hardly expect a model to
# care; wait for the table.
#
# ## Gates
#
# Look at the formula of Swish again: x times something between 0 and 1. It is a gate that x opens for *itself*. Why
# should the number that decides be the number that passes? Make them two projections of the token:

# %% name="two_forms" tags=["compare"]
picture = ffn_forms()
plots.show(picture, alt="An MLP: up_proj, activation, down_proj. A GLU: gate_proj with activation times up_proj")

gate, value = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0]), 2.0
kinds = {"GLU: sigmoid": "sigmoid", "ReGLU: ReLU": "relu", "GeGLU: GELU": "gelu", "SwiGLU: Swish": "silu"}
print("what comes of the value 2 when the gate is  ", gate.tolist())
for kind, name in kinds.items():
    passed = activations.activation(name)(gate) * value
    print(f"{kind:44s}", [round(number, 2) for number in passed.tolist()])
assert activations.activation("sigmoid")(gate).max() < 1

# %% [markdown]
# The first of the family, GLU, has a true gate, between shut and open. In the others the gate can amplify. They are
# named after what bends the gate.

# %% exercise="layers.gated.swiglu"

# %% [markdown]
# Three matrices, then, and in LLaMA none of them has a bias. Take a module of the package apart and put it together
# again with your function:

# %% name="swiglu_has_three_matrices" tags=["compare"]
torch.manual_seed(0)
d_model, d_ff = 96, 256  # 256 = 8/3 of 96
glu = GLU(d_model, d_ff).double()
x = torch.randn(2, 5, d_model, dtype=torch.float64)
w_gate, w_up, w_down = (parameter.detach() for parameter in glu.parameters())
gate = x @ w_gate.T
by_hand = (gate / (1 + torch.exp(-gate)) * (x @ w_up.T)) @ w_down.T
assert (swiglu(x, glu.gate_proj, glu.up_proj, glu.down_proj) - by_hand).abs().max() < 1e-12
assert (glu(x) - by_hand).abs().max() < 1e-12
n_weights = sum(parameter.numel() for parameter in glu.parameters())
assert n_weights == 8 * d_model**2
print("matrices:", [tuple(parameter.shape) for parameter in glu.parameters()])
print(f"3 D (8/3 D) = {n_weights:,} weights = 8 D², as many as an MLP of width 4 D")

# %% [markdown]
# Three matrices for two are half as many weights again, so a comparison at the same `d_ff` would not be fair. How wide
# may the GLU be?

# %% exercise="layers.gated.equal_param_width"

# %% name="widths_of_real_models" tags=["compare"]
for d_model in (4096, 5120, 8192):
    width = equal_param_width(4 * d_model, 256)
    print(f"d_model {d_model}: 4 D = {4 * d_model}, the GLU gets {equal_param_width(4 * d_model)}, rounded up {width}")
assert equal_param_width(4 * 4096, 256) == 11008 and equal_param_width(4 * 5120, 256) == 13824
seven_b = 3 * 4096 * 11008
print(f"LLaMA-7B: {seven_b:,} weights an FFN, {seven_b / (8 * 4096**2) - 1:+.1%} against 8 D²")

# %% [markdown]
# These are the widths in LLaMA's configurations (7B, 13B, 65B): now you know where 11,008 comes from.
#
# ### What a gate can do that a bend cannot
#
# A gate *multiplies* two projections. Let networks learn products: 8 random numbers go in, and the product of each with
# its neighbour is to come out. All have as many weights.
#
# **Predict.** Which share of the variance does each leave unexplained, ReLU, GELU, SwiGLU? Order them.

# %%
guess_order = "?"  # best first

# %% name="gates_multiply"
from minillm.layers import gated


def learn_products(network, seed, steps=250):
    """Train on fresh products, and return the share of the variance that is left."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for step in range(steps + 1):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / steps)
        x = torch.randn(192, 8, generator=generator)
        target = x * x.roll(1, dims=-1)
        loss = (network(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item() / target.var().item()

# %% name="products_are_what_gates_are_made_for" tags=["compare"]
width = gated.equal_param_width(48)
networks = {"ReLU": lambda: MLP(8, 48, "relu"), "GELU": lambda: MLP(8, 48, "gelu"), "SwiGLU": lambda: GLU(8, width)}
left = {name: [] for name in networks}
with mine.active():  # the SwiGLU runs through your function
    for seed in range(3):
        for name, make in networks.items():
            torch.manual_seed(seed)
            left[name].append(learn_products(make(), seed))
for name, shares in left.items():
    print(f"{name:7s} leaves", ["under 3 %" if share < 0.03 else "over 3 %" for share in shares])
assert all(gate < 0.03 and gate < 0.5 * min(a, b) for gate, a, b in zip(left["SwiGLU"], left["ReLU"], left["GELU"],
                                                                       strict=True))
print(f"in all three seeds SwiGLU leaves less than half as much as the others - you said {guess_order}")

figure, (axes,) = plots.new_figure(width=5.2, height=2.8)
plots.bar_chart(axes, {name: 100 * sum(shares) / 3 for name, shares in left.items()},
                "Learning products, mean of three seeds", "% unexplained", ".1f")
plots.show(figure, alt="Bars: ReLU leaves the most unexplained, GELU less, SwiGLU by far the least")

# %% [markdown]
# ReLU and GELU can *approximate* a product, with many hidden features; a gate has it built in. (So has ReLU squared:
# $4ab = (a+b)^2 - (a-b)^2$. Try it.) Attention is full of such products, queries times keys; gates bring them into the
# FFN.
#
# ## Does it matter for text?
#
# That a network learns products is no proof that a language model needs them. So here is the comparison on text: one
# small GPT, the same data and steps, one learning rate for all, and FFNs with equally many weights, within half a
# percent. A full run takes long, so its results are stored. "No bend" is a control, and so is
# "bilinear", a gate with no activation at all.
#
# **Predict.** Leave out "no bend". How far apart are the best and the worst of the other nine, in nats a character? And
# is SwiGLU the best?

# %%
guess_spread, guess_best = "?", "?"

# %% name="ffns_at_equal_weights" tags=["compare"]
from minillm.bench import results

table = results.load_table("ffn")
losses = {row["name"]: row["values"]["loss"] for row in table["rows"]}
means = {name: sum(found) / len(found) for name, found in losses.items()}
rows = [row for row in table["rows"] if "MoE" not in row["name"] and "wide" not in row["name"]]
others = [row["name"] for row in rows[1:]]
best, worst = min(others, key=means.get), max(others, key=means.get)
noise = max(max(losses[name]) - min(losses[name]) for name in others)
weights = [row["values"]["weights"][0] for row in rows]
assert max(weights) / min(weights) < 1.005
assert min(losses["no bend (identity)"]) > max(max(losses[name]) for name in others) + 0.1
close = [name for name in others if means[name] < means[best] + noise]
print(table["command"], "·", table["machine"])
print(f"of those with a bend or a gate, {best} is best and {worst} worst, {means[worst] - means[best]:.2f} nats apart")
print(f"you said {guess_spread}, {guess_best}; two seeds of one FFN differ by up to {noise:.2f} nats")
print("no further from the best than that:", ", ".join(close))
assert len(close) >= 6
picture = losses_picture(rows, "One GPT, ten FFNs of equal size: a dot a seed, a stroke at the mean",
                         unit="loss on unseen text, nats a character")
plots.show(picture, alt="Losses of ten FFNs: without a bend far behind, Swish and GLU a little, the others together")

# %% [markdown]
# A bend, or a gate, is worth more than a tenth of a nat. Among most of the others the seed decides: with one seed each,
# as such tables are often made, you would have found a winner by lot. Two stand apart, Swish without a gate and the GLU
# with its sigmoid. Is that a verdict on them?
#
# Look at how they begin. Fresh weights are small, and so are the numbers that meet the bend. Near 0 Swish is nearly the
# line x/2, and a sigmoid nearly the constant 1/2. ReLU has its corner at 0, however small the numbers are. If that is
# the reason, larger first weights must mend it.
#
# **Predict.** With first weights three times as large: is Swish still behind ReLU? And who is best?

# %%
guess_behind, guess_first = "?", "?"

# %% name="the_start_decides" tags=["compare"]
from minillm.bench.variants import harness

spread = harness.BASE.init.linear_std * math.sqrt(harness.BASE.d_model)
print(f"what meets the bend at first has a spread of {spread:.1f}, or of {3 * spread:.1f} with a wide start")
for name in ("GELU", "Swish", "GLU", "SwiGLU"):
    behind = [means[f"{name}{start}"] - means[f"ReLU{start}"] for start in ("", ", wide start")]
    shown = [f"{gap:+.2f}".replace("-0.00", "+0.00") for gap in behind]
    print(f"{name:6s} is {shown[0]} nats from ReLU; with a wide start {shown[1]}")
assert min(losses["Swish"]) > max(losses["ReLU"]) + 0.03
assert abs(means["Swish, wide start"] - means["ReLU, wide start"]) < 0.02
rest = [min(losses[name]) for name in losses if "MoE" not in name and name != "SwiGLU, wide start"]
assert max(losses["SwiGLU, wide start"]) < min(rest)
print(f"SwiGLU with a wide start is ahead of all others in every seed - you said {guess_behind}, {guess_first}")
shown = [row for row in table["rows"] if row["name"].partition(",")[0] in ("ReLU", "GELU", "Swish", "GLU", "SwiGLU")]
picture = losses_picture(sorted(shown, key=lambda row: "wide" in row["name"]), "Small first weights, and a wide start",
                         unit="loss on unseen text, nats a character")
plots.show(picture, alt="With a wide start Swish and GLU come near to ReLU, and SwiGLU is ahead of all")

# %% [markdown]
# Swish has caught up, and SwiGLU, which was one of many, is the winner. A product of two small numbers is very small,
# so a gate suffers most from a small start. What looked like a property of the activation was one of the activation
# *with that start*.
#
# Take two things along. Gates do help a language model: here by some hundredths of a nat, in Shazeer's table, after
# much longer training, by a few hundredths too; his paper offers no reason, and learning products is the best guess
# this lesson has. And a comparison of parts is fair only if each may have the start and the learning rate that suit it.
#
# Repeat a small part of it yourself, with the wide start: half the width, one layer, 150 steps.

# %% name="a_small_run_of_your_own"
from dataclasses import replace

from minillm.config import Glu, Init, Mlp

small = replace(harness.BASE, d_model=32, n_layers=1, n_heads=2, n_kv_heads=2, init=Init(0.1, 0.15, "zero"))
candidates = {"no bend": Mlp(128, "identity"), "SwiGLU": Glu(85)}
small_losses = {name: [] for name in candidates}
for name, ffn in candidates.items():
    for seed in range(3):
        model = harness.train_variant(replace(small, ffn=ffn), seed, train_len=32, batch_size=16, steps=150)
        small_losses[name].append(harness.mean_loss(model))
for name, found in small_losses.items():
    print(f"{name:8s}", " ".join(f"{loss:.2f}" for loss in found), "nats")
pairs = zip(small_losses["no bend"], small_losses["SwiGLU"], strict=True)
assert all(gated_loss < straight - 0.02 for straight, gated_loss in pairs)
print("in all three seeds SwiGLU is ahead of the model without a bend")

# %% [markdown]
# ## Many FFNs, and a few for each token
#
# More weights make a better model and a slower one. A **mixture of experts** (MoE) breaks that tie: in place of one FFN
# there are E, and a *router*, a single small matrix, sends each token to K of them. The model has the weights of E and
# the cost of K.
#
# By hand: four experts, a token whose router logits are 1, 3, 2, 0, and K = 2. Experts 1 and 2 are chosen. Their
# weights are a softmax over *their* logits, 3 and 2: 0.73 and 0.27. What the token gets is 0.73 times the answer of
# expert 1 plus 0.27 times that of expert 2. Experts 0 and 3 are not run at all.

# %% exercise="layers.moe.top_k_route"

# %% [markdown]
# With your router, the whole layer is a loop over experts. Here it is in its simplest form, against the module of the
# package, which gathers the tokens of each expert and so computes only what is needed. In the two limits you know the
# answer: K = E is a dense mixture of all experts, and equal experts are one expert.

# %% name="experts_as_one_sum" tags=["compare"]
from minillm.layers.moe import MoE


def every_expert_weighted(moe, x):
    """Run all experts on all tokens, and weight them; unchosen ones get 0."""
    weights, indices = top_k_route(moe.router(x), moe.top_k)
    spread = torch.zeros(len(x), len(moe.experts), dtype=x.dtype).scatter(-1, indices, weights)
    return sum(spread[:, [number]] * expert(x) for number, expert in enumerate(moe.experts))


torch.manual_seed(0)
x = torch.randn(20, 16, dtype=torch.float64)
for top_k in (1, 2, 8):
    moe = MoE(16, 8, top_k, 24).double()
    assert (every_expert_weighted(moe, x) - moe(x)).abs().max() < 1e-12
    expert, router = 3 * 16 * 24, 16 * 8
    print(f"K = {top_k}: {8 * expert + router:,} weights, of which a token meets {top_k * expert + router:,}")
dense = sum(share[:, None] * expert(x) for share, expert in zip(moe.router(x).softmax(-1).T, moe.experts, strict=True))
assert (moe(x) - dense).abs().max() < 1e-12
per_expert = 3 * 4096 * 14336 * 32
print(f"Mixtral 8x7B, all experts: {8 * per_expert / 1e9:.1f} billion weights, {2 * per_expert / 1e9:.1f} for a token")

# %% [markdown]
# ### Experts divide the work
#
# Does a router learn anything sensible? Give it a world with four kinds of inputs, each with a rule of its own
# (a random matrix). A dense SwiGLU of width 16 competes with 8 experts of width 8, of which each token uses 2: the same
# number of weights at work.

# %% name="a_world_of_four_kinds"
from minillm.layers import moe as moe_module
from minillm.layers import recorder


class FourKinds:
    """Inputs near one of four centres; the target is a matrix of that kind times the input."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)
        directions = torch.linalg.qr(torch.randn(8, 8, generator=self.generator))[0]
        self.centres = 3 * directions[:4]
        self.rules = torch.randn(4, 8, 8, generator=self.generator) / math.sqrt(8)

    def draw(self, n):
        kind = torch.randint(0, 4, (n,), generator=self.generator)
        x = self.centres[kind] + 0.5 * torch.randn(n, 8, generator=self.generator)
        return x, torch.einsum("nd,ned->ne", x, self.rules[kind]), kind

# %% name="learning_with_a_balance"
def learn_rules(network, world, balance=0.0, steps=160):
    """Train; if there are experts, with the balancing loss. Return the share of the variance that is left."""
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / steps)
        x, target, _ = world.draw(128)
        with recorder.record("router_logits", "router_indices", keep_graph=True) as tape:
            loss = (network(x) - target).square().mean()
        if balance:
            unfair = moe_module.load_balance_loss(tape["router_logits"][0], tape["router_indices"][0])
            loss = loss + balance * unfair
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, target, _ = world.draw(2000)
    with torch.no_grad():
        return ((network(x) - target).square().mean() / target.var()).item()

# %% name="counting_who_serves_whom"
def who_serves_whom(moe, world):
    """How many of the choices of each kind of input fall on each expert, (4, E)."""
    x, _, kind = world.draw(2000)
    with torch.no_grad(), recorder.record("router_indices") as tape:
        moe(x)
    pairs = kind[:, None] * len(moe.experts) + tape["router_indices"][0]
    return torch.bincount(pairs.flatten(), minlength=4 * len(moe.experts)).view(4, -1)

# %% name="experts_divide_the_work" tags=["compare"]
tables, left = [], {"dense": [], "experts": []}
for seed in range(3):
    torch.manual_seed(seed)
    dense, experts = GLU(8, 16), MoE(8, 8, 2, 8)
    left["dense"].append(learn_rules(dense, FourKinds(seed)))
    world = FourKinds(seed)
    left["experts"].append(learn_rules(experts, world, balance=0.1))
    tables.append(who_serves_whom(experts, world))
assert all(few < 0.67 * one for few, one in zip(left["experts"], left["dense"], strict=True))
for served in tables:
    own = served.amax(0).sum() / served.sum()
    assert own > 0.7
print("in all three seeds the experts leave less than two thirds of the error that the dense FFN leaves,")
print("and at least 70 % of what an expert does is for one kind of input")
figure, panels = plots.new_figure(3, width=10, height=2.6)
for seed, (axes, served) in enumerate(zip(panels, tables, strict=True)):
    plots.heat_map(axes, served / served.sum(1, keepdim=True), ["kind 0", "kind 1", "kind 2", "kind 3"],
                   title=f"seed {seed}")
    axes.set_xlabel("expert")
plots.show(figure, alt="Three tables, kinds of input by experts: most experts are used by a single kind")

# %% [markdown]
# Nobody told the router that there are four kinds. It found that out because the experts that were a little better at
# one kind got more of it, and so became better still.
#
# ### One expert needs another rule
#
# The router learns through the weights: if an expert's answer helps, its weight should grow. So what happens with
# K = 1? **Predict** the size of the router's gradient.

# %%
guess_gradient = "?"  # a number

# %% name="one_expert_gives_no_gradient" tags=["compare"]
torch.manual_seed(0)
x = torch.randn(64, 8)
lengths = {}
for top_k in (1, 2):
    moe = MoE(8, 4, top_k, 8)
    moe(x).square().sum().backward()
    lengths[top_k] = moe.router.weight.grad.norm().item()
    print(f"K = {top_k}: the router gets", "no gradient at all" if lengths[top_k] == 0 else "a gradient")
assert lengths[1] == 0 and lengths[2] > 1e-3
print(f"you said {guess_gradient}")

# %% [markdown]
# The softmax of a single number is 1, whatever the number: exactly 0 comes back. That is why Switch, with its one
# expert, weights it by its probability among *all* experts, and why Mixtral's rule starts at two.
#
# ## The rich get richer
#
# In that experiment a second loss was at work, one that keeps the router fair. Look at what happens without it, when
# the router begins with a small favour for two of the eight.

# %% exercise="layers.moe.load_balance_loss"

# %% name="fair_and_collapsed" tags=["compare"]
fair = 20 * torch.eye(8).repeat(4, 1)  # 32 tokens: each expert is the sure choice of four
collapsed = torch.zeros(32, 8)
collapsed[:, 3] = 20.0  # one expert is the sure choice of all
for name, logits in (("all experts used alike", fair), ("one takes everything", collapsed)):
    _, chosen = top_k_route(logits, 1)
    print(f"{name:24s}{load_balance_loss(logits, chosen).item():.2f}")
assert abs(load_balance_loss(fair, top_k_route(fair, 1)[1]) - 1) < 1e-4
assert abs(load_balance_loss(collapsed, top_k_route(collapsed, 1)[1]) - 8) < 1e-4
collapsed[:, 5] = 20.0
print(f"{'two take everything':24s}{load_balance_loss(collapsed, top_k_route(collapsed, 2)[1]).item():.2f}")

logits = torch.randn(20, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
weights, chosen = top_k_route(logits, 8)
assert (weights - logits.softmax(-1).gather(-1, chosen)).abs().max() < 1e-12
print("K = E: the weights are the softmax over all experts, a dense mixture")

# %% [markdown]
# **Predict.** Eight experts, two for each token, and at the start two favourites. Training runs once without the loss
# and once with it, at a coefficient of 0.1. How many experts are in use at the end (with at least a tenth of their fair
# share)?

# %%
guess_without, guess_with = "?", "?"

# %% name="balance_brings_experts_back" tags=["compare"]
in_use, crowded, left = ({0.0: [], 0.1: []} for _ in range(3))
with mine.active():  # the balancing loss is yours
    for seed in range(3):
        for balance in (0.0, 0.1):
            world = FourKinds(seed)
            torch.manual_seed(seed)
            experts = MoE(8, 8, 2, 8)
            with torch.no_grad():
                experts.router.weight.mul_(0.1)
                experts.router.weight[:2] += world.centres.mean(0)  # whatever comes, these two look better
            left[balance].append(learn_rules(experts, world, balance))
            shares = who_serves_whom(experts, world).sum(0) / 4000
            in_use[balance].append(int((shares > 0.1 / 8).sum()))
            crowded[balance].append(shares.max().item())
assert all(few <= 4 and many >= 7 for few, many in zip(in_use[0.0], in_use[0.1], strict=True))
assert min(crowded[0.0]) > 0.4 and max(crowded[0.1]) < 0.25
assert all(with_it < 0.67 * without for without, with_it in zip(left[0.0], left[0.1], strict=True))
print(f"in use without the loss: at most {max(in_use[0.0])} of 8 - you said {guess_without}")
print(f"in use with it: at least {min(in_use[0.1])} of 8 - you said {guess_with}")
print("and the error is less than two thirds of what it was, in all three seeds")

# %% [markdown]
# An expert that is not chosen gets no gradient, does not improve, and is not chosen. The loss breaks the circle: it
# pushes down the logits of the crowded experts and so lifts the idle ones.
#
# How does a training loop get at it? A module that keeps its last logits in an attribute would be hidden state. Here
# the layer *reports* its logits, and whoever opens a recorder hears them, with or without gradients. You saw it in
# `learn_rules`; in the package it is `minillm.training.balancing`, and `Recipe(balance=0.01)` sets the coefficient.
#
# On text, in the stored table: the same GPT with 8 experts, 2 for each token, of such a size that the two have as many
# weights as one SwiGLU (and the router's on top).

# %% name="experts_on_text" tags=["compare"]
by_name = {row["name"]: row for row in table["rows"]}
kinds = ["MoE, wide start", "MoE", "MoE, balance 0", "MoE, capacity 1", "MoE, balance 0, capacity 1"]
found = {name: by_name[name]["values"] for name in ("SwiGLU, wide start", "SwiGLU", *kinds)}
print("the worst of three seeds      active  crowded  idle")
for name in kinds:
    active, crowded, idle = (max(found[name][key]) for key in ("active", "crowded", "idle"))
    print(f"{name:28s} {active:7,} {crowded:8.2f} {idle:5.0f}")
print(f"SwiGLU has {found['SwiGLU']['weights'][0]:,} weights, the experts have {found['MoE']['weights'][0]:,}")
for start in ("", ", wide start"):
    assert max(losses[f"MoE{start}"]) < min(losses[f"SwiGLU{start}"])
assert max(found["MoE"]["crowded"]) < 0.3 and min(found["MoE, balance 0"]["crowded"]) > 0.4
assert min(found["MoE, balance 0"]["idle"]) >= 1 and max(found["MoE"]["idle"]) == 0
assert means["MoE, balance 0, capacity 1"] - means["MoE, capacity 1"] > means["MoE, balance 0"] - means["MoE"]
picture = losses_picture([by_name[name] for name in found], "One SwiGLU, and experts with as many active weights",
                         unit="loss on unseen text, nats a character")
plots.show(picture, alt="SwiGLU, and mixtures of experts: ahead of it, or behind where experts drop tokens")

# %% [markdown]
# *Crowded* is the share of the choices that the most popular expert gets: 1/8 if all is fair, 1/2 at worst, when each
# token has it among its two. *Idle* experts get less than a tenth of their fair share.
#
# With experts the model is better than with one SwiGLU, from either start and in every seed, at the same work for a
# token. Without the balancing loss an expert lies idle and another is crowded, and yet the loss suffers little. So why
# does everybody want balance? The lower two rows tell: there each expert takes no more than its fair share in training,
# as a device with fixed memory would, and what comes on top is dropped. Then imbalance is paid for.
#
# ## Capacity
#
# On a real machine each expert stands on a device of its own and has room for so many tokens: its **capacity**, a
# factor times its fair share. What comes on top is *dropped*: the expert answers 0, and the residual connection carries
# the token on.
#
# **Predict.** The router is perfectly fair, but it draws at random: 64 tokens, 8 experts, one for each token. With room
# for exactly the fair share, 8 tokens each, what percentage is dropped?

# %%
guess_dropped = "?"

# %% name="how_many_are_dropped" tags=["compare"]
draws = torch.randint(0, 8, (4000, 64), generator=torch.Generator().manual_seed(0))
counts = F.one_hot(draws, 8).sum(1)
dropped = {}
for factor in (1.0, 1.25, 1.5, 2.0):
    room = moe_module.expert_capacity(64, n_experts=8, top_k=1, capacity_factor=factor)
    dropped[factor] = ((counts - room).clamp(min=0).sum() / draws.numel()).item()
    print(f"capacity factor {factor:4.2f}: room for {room:2d} each, {dropped[factor]:5.1%} dropped")
assert 0.12 < dropped[1.0] < 0.14 and 0.04 < dropped[1.25] < 0.05 and dropped[2.0] < 0.002
print(f"you said {guess_dropped}")

# %% [markdown]
# So no router, however fair, gets by with a factor of 1. More room costs memory and empty slots; 1.25 is a usual
# choice.
#
# ## Find the bug: the queue
#
# Who is dropped? There is a way that looks only fair: first serve the first choices of *all* tokens, then the second
# choices, as long as there is room. (GShard, a translation model, orders its queue so.) Take it into a language model
# and run a test that every causal part should pass: change the last tokens, and see whether anything moves for the
# first ones.

# %% name="the_future_leaks" tags=["compare"]
from minillm.course.lessons.lesson_06.capacity import first_choices_first


def leaks(order, n_tables=200):
    """In how many random tables does the fate of tokens 0 to 11 depend on tokens 12 to 23?"""
    generator = torch.Generator().manual_seed(0)
    room, found = moe_module.expert_capacity(24, n_experts=6, top_k=2, capacity_factor=1.0), 0
    for _ in range(n_tables):
        logits = torch.randn(24, 6, generator=generator)
        other = torch.cat([logits[:12], torch.randn(12, 6, generator=generator)])
        served, served_then = (order(top_k_route(one, 2)[1], 6, room) for one in (logits, other))
        found += not torch.equal(served[:12], served_then[:12])
    return found


n_leaks = leaks(first_choices_first)
assert n_leaks > 50
print(f"in {n_leaks} of 200 tables an early token is served or dropped depending on later ones")

# %% exercise="layers.moe.within_capacity"

# %% name="the_queue_is_mended" tags=["compare"]
assert leaks(within_capacity) == 0
torch.manual_seed(0)
x = torch.randn(24, 8)
later = torch.cat([x[:12], torch.randn(12, 8)])
with mine.active(), recorder.record("served") as tape:
    moe = MoE(8, 6, 2, 8, capacity_factor=1.0).train()
    moved = (moe(x) - moe(later)).abs().amax(-1)
assert moved[:12].max() < 1e-6 and moved[12:].max() > 1e-3
print("in 0 of 200 tables; and in the whole layer no early token moves")
print(f"served in this batch: {int(tape['served'][0].sum())} of {tape['served'][0].numel()} choices")
moe.eval()
with recorder.record("served") as tape:
    moe(x)
assert "served" not in tape
print("outside of training nothing is dropped: a token's answer must not depend on who else is in the batch")

# %% [markdown]
# Now all of it at once: three small GPTs on text, with a tanh GELU, with Swish, and with experts that have a queue and
# a balance. Every step runs through what you wrote.

# %% name="your_functions_in_three_models" tags=["compare"]
from minillm.config import Experts

with mine.active():
    experts = Experts(4, 2, gated.equal_param_width(64) // 2, capacity_factor=1.25)
    for ffn in (Mlp(64, "gelu_tanh"), Mlp(64, "silu"), experts):
        recipe = replace(harness.small_recipe(5), balance=0.01)
        model = harness.train_variant(replace(small, ffn=ffn), 0, train_len=16, batch_size=4, steps=5, recipe=recipe)
built_here = ("activations.gelu_tanh", "activations.swish", "gated.swiglu", "gated.equal_param_width",
              "moe.top_k_route", "moe.load_balance_loss", "moe.within_capacity")
ran = {name: (whose, calls) for name, whose, calls in mine.table().rows}
for name in built_here:
    whose, calls = ran[f"layers.{name}"]
    print(f"{name:26s} {whose:12s} {calls:3d} calls")
    assert calls >= (1 if "width" in name else 5)

# %% [markdown]
# One kind of dependence is left even so: in training, a token's fate depends on *earlier* ones, also of other texts in
# the batch. That is no leak of the future, but it is why results with capacity change a little with the batch.
#
# ## Myth and measurement
#
# Collections of interview answers print this formula for an FFN with GLU, and once more for SwiGLU:
#
# $$\mathrm{GLU}(x) = x\,\sigma(W_1 x), \qquad \mathrm{SwiGLU}(x) = x\,\sigma(W_1 x)$$
#
# It tempts, because Swish *is* $x\,\sigma(x)$. Try it.

# %% name="two_formulas_one_expression" tags=["compare"]
torch.manual_seed(0)
x = torch.randn(500, 32, dtype=torch.float64)
w_1 = nn.Linear(32, 32, bias=False).double()


def printed_glu(x):
    return x * torch.sigmoid(w_1(x))


def printed_swiglu(x):
    return torch.sigmoid(w_1(x)) * x


parts = [nn.Linear(a, b, bias=False).double() for a, b in ((32, 84), (32, 84), (84, 32))]
true_glu, true_swiglu = gated.glu(x, *parts), swiglu(x, *parts)
assert torch.equal(printed_glu(x), printed_swiglu(x))
assert (true_glu - true_swiglu).norm() > 0.1 * true_glu.norm()
print("as printed, the two are one expression: difference", (printed_glu(x) - printed_swiglu(x)).abs().max().item())
print("the true GLU and the true SwiGLU differ:", bool((true_glu - true_swiglu).abs().max() > 1e-2))

# %% name="glu_has_a_sign_of_its_own" tags=["compare"]
agree = {name: (y.sign() == x.sign()).double().mean().item()
         for name, y in (("as printed", printed_glu(x)), ("GLU", true_glu), ("SwiGLU", true_swiglu))}
for name, share in agree.items():
    print(f"{name:10s} has the sign of its input in {share:.0%} of the entries")
assert agree["as printed"] == 1 and all(0.45 < agree[name] < 0.55 for name in ("GLU", "SwiGLU"))

wide = nn.Linear(32, 128, bias=False).double()
try:
    x * torch.sigmoid(wide(x))
    said = "no error"
except RuntimeError as error:
    said = str(error)
assert "must match" in said
print("as printed, with a hidden width of 128:", said.partition(" at")[0])

# %% [markdown]
# The printed formula can only shrink each feature of x; it can't turn a sign, mix features or widen. The true ones are
# networks of three matrices, and the sign of what comes out has nothing to do with the sign of what went in.
#
# For GeGLU the same collections repeat GELU without its cube. The true one, number by number:

# %% name="geglu_by_its_formula" tags=["compare"]
got = gated.geglu(x, *parts)
w_gate, w_up, w_down = (part.weight for part in parts)
by_hand = torch.empty_like(got)
for n, token in enumerate(x):
    gate, value = w_gate @ token, w_up @ token
    by_hand[n] = w_down @ (gate * torch.distributions.Normal(0, 1).cdf(gate) * value)
assert (got - by_hand).abs().max() < 1e-6
assert sum(part.weight.numel() for part in parts) == 3 * 32 * 84
tanh_form = GLU(32, 84, "gelu_tanh").double()
tanh_form.gate_proj, tanh_form.up_proj, tanh_form.down_proj = parts
assert 0 < (tanh_form(x) - got).abs().max() < 1e-2
print(f"GeGLU: {3 * 32 * 84:,} weights = 3 D F; equal to the formula with Phi")
print("with the tanh form (T5 version 1.1, Gemma) it differs a little:", bool((tanh_form(x) != got).any()))

# %% [markdown]
# ## Explore
#
# Left, the activation and its slope. Right, one hidden unit over a plane of inputs: purple is positive, orange
# negative, the thin line is 0. Start with one projection: the unit sees the plane from one side only, and all it can do
# is bend along its weights. Then take a gate, and turn the value against it. With "identity" and a right angle the unit
# is a product. And what do you get from ReLU with the angle at 0? You know that curve from the first picture.

# %% name="explore_gates"
from minillm.course.scenes.gate_explorer import gate_controls, gate_picture
from minillm.course.widgets import Explorer

Explorer(
    gate_picture,
    alt="Left, Swish and its slope. Right, a gated hidden unit: nothing where the gate is shut, a product elsewhere",
    **gate_controls(),
)

# %% [markdown]
# ## Interview corner
#
# Answer aloud before you unfold. Each answer names the cell that proves it.

# %% [markdown] interview="06"

# %% [markdown]
# ## Remember
#
# 1. An FFN is a matrix, a bend, a matrix, for each token alone. It holds two thirds of a block's weights, and without
#    the bend it is one matrix.
# 2. A GLU multiplies two projections and leads the product back: three matrices, two thirds of the width, 8 D² weights
#    as before. What the gate's bend is called gives the name; the multiplication is the point.
# 3. Experts give a model more weights than a token pays for. The router learns through its weights, so it needs two
#    choices, a loss that keeps it fair, and a queue in which nobody overtakes.
#
# **Where next.** Lesson 07 puts the FFN into a block and the blocks into a GPT. Lesson 14 shares and prunes what you
# have built here.
