# %% [markdown]
# # 05 Norms
#
# A norm rescales a token's vector. That sounds like a detail, and it decides whether a deep model learns at all. You
# build the three norms, you find one that reads the future, and then you stack 48 layers five times, with the same
# parts and the norm in another place each time, and watch two of them fail. At the end you know *why* they fail, which
# is not what most people say, and how DeepNorm and a warm-up mend it.
#
# | | |
# |---|---|
# | **You need** | lesson 00 (broadcasting); helpful: lesson 07 (the block) |
# | **Time** | about an hour for the six exercises, an hour for the rest |
# | **Runs on** | any CPU with 2 GB; all cells together less than a minute, most of it stacks of 48 layers in training |
#
# **Sources.** Ioffe and Szegedy 2015 (BatchNorm), algorithms 1 and 2; Ba et al. 2016 (LayerNorm), section 3; Zhang and
# Sennrich 2019 (RMSNorm), section 4; He et al. 2015 (ResNet), section 1; Xiong et al. 2020 (pre- and post-norm),
# section 3; Wang et al. 2022 (DeepNet), sections 3 and 4; Ding et al. 2021 (CogView), section 2.4; Henry et al. 2020
# (QK-norm); Liu et al. 2020 (Admin), section 4.
#
# An exercise is three cells: the task with folded hints, a cell for your function, and a check that tells you which
# mistake you made. Until yours is right, the lesson goes on with the course's own.

# %% [markdown]
# ## Five ways to join the same parts

# %% name="five_designs"
import math

import torch
import torch.nn.functional as F
from torch import nn

from minillm.course import check, hint, mine, plots, reset, solution  # noqa: F401
from minillm.course.scenes import norm_pictures

torch.set_num_threads(1)  # these matrices are small: a second thread would only wait for the first
picture = norm_pictures.branch_designs()
plots.show(picture, alt="A part and its norm in five designs: no residual, pre-norm, post-norm, sandwich and DeepNorm")

# %% [markdown]
# A **part** is attention or an FFN. The heavy line is the **residual stream**: what runs past the part and is added to
# what it says. The five drawings use the same part, and all but the fourth the same single norm. Only its place
# differs.
#
# **Predict.** Stack 48 of each, with fresh weights, and train all alike, at full rate from the first step. Two of the
# five do not learn at all. Which two? Write it down; you will measure it below.

# %%
guess_stuck = "?"  # two of: no residual, pre-norm, post-norm, sandwich, DeepNorm

# %% [markdown]
# ## One token by hand
#
# First the norm itself. A token with eight features, (2, 4, 4, 4, 5, 5, 7, 9). Its mean is 5. Subtract it: (−3, −1, −1,
# −1, 0, 0, 2, 4). The mean of the squares of that is (9 + 1 + 1 + 1 + 4 + 16) / 8 = 4: the **variance**. Its root is 2.
# Divide by it, and you have normalized the token.

# %% name="one_token_by_hand" tags=["compare"]
token = torch.tensor([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0])
centred = token - token.mean()
variance = centred.square().mean()
normal = centred / variance.sqrt()
mean_square = token.square().mean()
assert (token.mean(), variance, mean_square) == (5.0, 4.0, 29.0)
assert torch.equal(normal, torch.tensor([-1.5, -0.5, -0.5, -0.5, 0.0, 0.0, 1.0, 2.0]))
print("LayerNorm:", normal.tolist())
print("RMSNorm:  ", [round(number, 2) for number in (token / mean_square.sqrt()).tolist()], "divides by √29")
panels = {"the token": token, "LayerNorm": normal, "RMSNorm": token / mean_square.sqrt()}
plots.show(norm_pictures.token_panels(panels), alt="Eight bars with mean 5; centred and small after LayerNorm; only "
           "smaller, with a mean near 1, after RMSNorm")

# %% [markdown]
# The picture has kept its shape. A norm moves a token and rescales it, and no more. RMSNorm does even less: it leaves
# the mean in, and divides by the root of the mean *square*.
#
# Two things are learned on top: a gain for each feature, `weight`, and for LayerNorm a shift, `bias`. And under the
# root stands a tiny `eps`, so that a token of equal features becomes 0 and not 0/0:
#
# $$\mathrm{LN}(x) = \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}} \odot \mathrm{weight} + \mathrm{bias},
# \qquad \mu = \frac{1}{D}\sum_i x_i, \quad \sigma^2 = \frac{1}{D}\sum_i (x_i - \mu)^2$$

# %% exercise="layers.norms.layer_norm"

# %% [markdown]
# ### Two details that everybody gets wrong once
#
# The variance divides by D, but `x.std()` divides by D − 1 unless told otherwise. A widely copied LayerNorm does that,
# and adds eps outside the root as well. How much is it off?

# %% name="layer_norm_details" tags=["compare"]
def widely_copied(x, weight, bias, eps=1e-5):
    return weight * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + eps) + bias


generator = torch.Generator().manual_seed(0)
for d in (5, 64, 4096):
    x, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((100, d), (d,), (d,)))
    want = F.layer_norm(x, (d,), weight, bias)
    ours, copied = layer_norm(x, weight, bias), widely_copied(x, weight, bias)
    assert (ours - want).abs().max() < 1e-5
    factor = ((copied - bias) / (want - bias)).median().item()
    assert abs(factor - math.sqrt((d - 1) / d)) < 1e-3
    print(f"D = {d:4d}: yours agrees with torch to 1e-5; the copied one is {1 - factor:.2%} too small")
small = 1e-3 * torch.randn(100, 64, generator=generator)
shrunk = widely_copied(small, 1.0, 0.0).std() / F.layer_norm(small, (64,)).std()
flat, ones = torch.full((5,), 3.0), torch.ones(5)
assert shrunk > 1.5 and layer_norm(flat, ones).abs().max() == 0 and widely_copied(flat, 1.0, 0.0, 0.0).isnan().all()
print(f"on features of size 0.001, where eps counts, it is {shrunk:.1f} times too large")
print(f"a token of equal features: {layer_norm(flat, ones).tolist()}; without eps all nan")

# %% [markdown]
# At the width of a large model the first detail hardly matters, at a width of 5 it does. A test on five numbers finds
# it, a test on a real layer does not.
#
# ### Standardized is not normal
#
# "Normalization makes the data normally distributed." It tempts, because of the word. Take features with a long tail,
# where most are small and a few are very large, and look at their shape before and after. The **skewness**, the mean
# cube of the standardized numbers, is 0 for a normal distribution.

# %% name="standardized_is_not_normal"
def skewness(x):
    return (((x - x.mean(-1, keepdim=True)) / x.std(-1, correction=0, keepdim=True)) ** 3).mean(-1)


generator = torch.Generator().manual_seed(1)
long_tail = torch.randn(1, 20_000, generator=generator, dtype=torch.float64).exp()
after = layer_norm(long_tail, torch.ones(20_000, dtype=torch.float64))
before_and_after = skewness(long_tail).item(), skewness(after).item()
assert abs(before_and_after[0] - before_and_after[1]) < 1e-3 and before_and_after[1] > 2
print(f"skewness before {before_and_after[0]:.2f}, after {before_and_after[1]:.2f}; a normal distribution has 0")
figure, panels = plots.new_figure(2, width=7.2, height=2.7)
for axes, numbers, title in zip(panels, (long_tail, after), ("features", "after LayerNorm"), strict=True):
    spread = numbers.std().item()
    axes.hist(numbers.flatten().numpy(), bins=80, color=plots.COLOURS[0],
              range=(numbers.min().item() - 0.2 * spread, numbers.mean().item() + 4 * spread))
    axes.set(title=title, yticks=[])
plots.show(figure, alt="Two histograms of the same lopsided shape with a long tail to the right; only the axis differs")

# %% [markdown]
# The same picture with another axis. Subtracting and dividing cannot change a shape.

# %% [markdown]
# ## RMSNorm: what can be left out
#
# $$\mathrm{RMS}(x) = \frac{x}{\sqrt{\tfrac{1}{D}\sum_i x_i^2 + \varepsilon}} \odot \mathrm{weight}$$
#
# No mean, no bias. In 16 bits the order of the steps matters, as the task says.

# %% exercise="layers.norms.rms_norm"

# %% [markdown]
# **Predict.** Take one token of a text. Multiply it by 100: does its own output change, and that of the other tokens?
# Add 5 to all its features: what does LayerNorm say, what RMSNorm?

# %%
guess_scaled, guess_shifted = "?", "?"

# %% name="what_each_norm_ignores" tags=["compare"]
generator = torch.Generator().manual_seed(2)
x = torch.randn(1, 6, 256, generator=generator, dtype=torch.float64)
ones = torch.ones(256, dtype=torch.float64)
both = {"LayerNorm": lambda x: layer_norm(x, ones), "RMSNorm": lambda x: rms_norm(x, ones)}
changes = {"token 0 times 100": lambda t: 100 * t, "5 added to token 0": lambda t: t + 5}
moved = {}
for change, function in changes.items():
    changed = torch.cat([function(x[:, :1]), x[:, 1:]], dim=1)
    for name, norm in both.items():
        gap = (norm(changed) - norm(x)).abs().amax(-1)[0]
        moved[change, name] = gap[0].item()
        assert gap[1:].max() == 0, "no token sees another"
        verdict = "stays" if gap[0] < 1e-4 else f"moves by up to {gap[0]:.1f}"
        print(f"{change:19s} {name:9s} token 0 {verdict}; the other tokens move by {gap[1:].max():.0f}")
assert max(moved["token 0 times 100", name] for name in both) < 1e-4
assert moved["5 added to token 0", "LayerNorm"] < 1e-4 and moved["5 added to token 0", "RMSNorm"] > 1
print("you said:", guess_scaled, "and", guess_shifted)

# %% [markdown]
# So each token is alone, in both. Both ignore how long the vector is. Only LayerNorm ignores a common shift, and that
# is all that separates them: *LayerNorm is RMSNorm of the centred token*.

# %% name="rms_norm_of_centred_tokens" tags=["compare"]
from minillm.config import preset
from minillm.model.counting import count_parameters

centred = x - x.mean(-1, keepdim=True)
difference = (rms_norm(centred, ones, 1e-5) - layer_norm(x, ones)).abs().max().item()
assert difference < 1e-12
print("RMSNorm of the centred token is LayerNorm, to 1e-12")
llama = preset("llama-7b")
n_norms = 2 * llama.n_layers + 1
weights = n_norms * llama.d_model
assert (n_norms, weights) == (65, 266_240)
share = 2 * weights / count_parameters(llama)["total"]
print(f"LLaMA-7B has {n_norms} norms: {weights:,} weights; with LayerNorm it would be {2 * weights:,}")
print(f"that would be {share:.4%} of the model: memory is not the reason")

# %% [markdown]
# The reason is work: one pass over the features less, at places that do little arithmetic and much reading. And that
# nothing is lost: you see a measurement at the end of the lesson.
#
# The gain matters, and formulas on the web often leave it out:

# %% name="the_gain_belongs_to_it" tags=["compare"]
for d in (8, 64, 512):
    torchs = nn.RMSNorm(d, eps=1e-6)
    nn.init.normal_(torchs.weight, generator=torch.Generator().manual_seed(d))
    x = torch.randn(100, d, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        with_gain = (rms_norm(x, torchs.weight) - torchs(x)).abs().max().item()
        without = (rms_norm(x, torch.ones(d)) - torchs(x)).abs().max().item()
    assert with_gain < 1e-5 and without > 1
    print(f"D = {d:3d}: torch.nn.RMSNorm with the gain to 1e-5; without it the largest error is above 1")

# %% [markdown]
# ### In 16 bits
#
# float16 ends at 65,504. The square of 300 is 90,000. And beside an outlier, a feature that is hundreds of times larger
# than the rest, the others keep so few bits that the order of cast and gain shows:

# %% name="sixteen_bits" tags=["compare"]
x = torch.tensor([300.0, -400.0, 100.0, 0.0]).half()
in_half = x * torch.rsqrt(x.square().mean() + 1e-6)
wide = rms_norm(x, torch.ones(4).half())
assert in_half.abs().max() == 0 and wide.abs().max() > 1
print("squared in float16:", in_half.tolist(), " in float32:", [round(number, 2) for number in wide.tolist()])

generator = torch.Generator().manual_seed(4)
x, weight = torch.randn(1000, 64, generator=generator), torch.randn(64, generator=generator)
for dtype in (torch.float16, torch.bfloat16):
    half, gain = x.to(dtype), weight.to(dtype)
    cast_first = rms_norm(half, gain)
    cast_last = (half.float() * torch.rsqrt(half.float().square().mean(-1, keepdim=True) + 1e-6) * gain.float())
    other_bits = (cast_first != cast_last.to(dtype)).double().mean().item()
    assert 0.05 < other_bits < 0.6
    print(f"{dtype}: LLaMA's order and Gemma's give other bits in {round(100 * other_bits, -1):.0f} % of the numbers")

# %% [markdown]
# Neither order is wrong. But weights were trained in one of them, and whoever loads a model must take the same.

# %% [markdown]
# ## BatchNorm: the same formula along the other axis
#
# BatchNorm came first, and it normalizes each *feature* over all samples of the batch. The difference is one axis:

# %% name="rows_and_columns"
row, column = torch.zeros(2, 6, 8)
row[2], column[:, 3] = 1.0, 1.0
figure, panels = plots.new_figure(2, width=7.0, height=2.9)
for axes, cells, title in zip(panels, (row, column), ("LayerNorm: one mean a row", "BatchNorm: one mean a column"),
                              strict=True):
    plots.heat_map(axes, cells, title=title, low=0, high=1.4)
    axes.set(xlabel="features", ylabel="tokens of the batch")
plots.show(figure, alt="A table of tokens and features: LayerNorm takes its mean along a row, BatchNorm down a column")

# %% [markdown]
# That axis changes everything. In training, a token's output depends on who else is in the batch. When the model is
# used there may be no batch at all, so BatchNorm has to remember averages from training and use those. The same layer
# is two functions.

# %% exercise="layers.batch_norm.batch_norm_eval"

# %% name="batch_norm_against_layer_norm" tags=["compare"]
from minillm.layers.batch_norm import BatchNorm, batch_norm_train

generator = torch.Generator().manual_seed(5)
x = torch.randn(4, 256, generator=generator, dtype=torch.float64)
ones, zeros = torch.ones(256, dtype=torch.float64), torch.zeros(256, dtype=torch.float64)
crowd = torch.cat([x[:1], 10 * torch.randn(3, 256, generator=generator, dtype=torch.float64)])
by_batch = (batch_norm_train(crowd, ones, zeros)[0] - batch_norm_train(x, ones, zeros)[0])[0].abs().max().item()
by_memory = (batch_norm_eval(crowd, zeros, ones, ones, zeros) - batch_norm_eval(x, zeros, ones, ones, zeros))[0]
by_layer = (layer_norm(crowd, ones) - layer_norm(x, ones))[0].abs().max().item()
assert by_batch > 1 and by_layer == 0 and by_memory.abs().max() == 0
print(f"three other samples: sample 0 moves by {by_batch:.1f} under BatchNorm in training, by {by_layer:.0f} under "
      "LayerNorm")

text = torch.randn(1, 50, 256, generator=generator, dtype=torch.float64).exp()
normal = layer_norm(text, ones)
along_features, along_time = normal.mean(-1).abs().max().item(), normal.mean(1).abs().mean().item()
assert along_features < 1e-12 and along_time > 0.05
shape_kept = (skewness(normal) - skewness(text)).abs().max().item()
assert shape_kept < 1e-3 and skewness(normal).min() > 1
print(f"LayerNorm of a text: mean over a token's features below 1e-12, over time {along_time:.2f} (not 0)")
print(f"smallest skewness of a token, before and after: {skewness(normal).min():.1f}")

# %% [markdown]
# "LayerNorm normalizes across the time steps", some say. The last lines show that it does not: each token's mean is 0,
# a feature's mean over time is not.
#
# How far apart are BatchNorm's two functions? Let it see a hundred batches of four, then hand it the same four samples
# in both modes.

# %% name="two_functions_in_one" tags=["compare"]
layer = BatchNorm(16)
for step in range(100):
    layer(3 + 2 * torch.randn(4, 16, generator=torch.Generator().manual_seed(step)))
assert (layer.running_mean - 3).abs().max() < 1.5 and (layer.running_var - 4).abs().max() < 3.5
x = 3 + 2 * torch.randn(4, 16, generator=torch.Generator().manual_seed(1000))
in_training, in_use = layer(x), layer.eval()(x)
apart = ((in_training - in_use).norm() / in_use.norm()).item()
assert apart > 0.3
print(f"the same samples, the same layer, two modes: outputs {apart:.0%} apart")
print("one sample alone in use:", tuple(layer(x[:1]).shape), " in training: a ValueError, it has no variance")
try:
    layer.train()(x[:1])
except ValueError as error:
    print(error)

# %% [markdown]
# For pictures in large batches that is a fair price. Texts have different lengths, so that a batch is full of padding;
# they are generated one at a time; and their batches are split over many machines. For them a norm that needs nobody
# else is the better one.
#
# ## Find the bug: a norm that reads the future
#
# GroupNorm is between the two: the features of one token are split into groups, and each group is normalized by itself.
# Models with linear attention (RWKV, RetNet) do this to what their heads put out. Somebody took torch's `F.group_norm`,
# which wants (B, D, T). Change one token and see which outputs move; then let a small model play dice with it. Fair
# dice with eight faces: nobody can predict them, and no honest loss can fall below ln 8.

# %% name="a_norm_that_cheats"
def found_somewhere(x, n_groups, weight, bias):
    features_first = x.transpose(-2, -1)
    return F.group_norm(features_first, n_groups, weight, bias).transpose(-2, -1)


def who_moves(norm, x, weight, bias):
    """Row i, column j: whether output i moves when token j is turned round."""
    moved = []
    for token in range(x.shape[1]):
        changed = x.clone()
        changed[:, token] = changed[:, token].flip(-1)
        moved.append((norm(changed, 4, weight, bias) - norm(x, 4, weight, bias))[0].abs().amax(-1) > 1e-6)
    return torch.stack(moved, dim=1)

# %%
def dice_loss(norm, seed=0, steps=120):
    generator = torch.Generator().manual_seed(seed)
    table, up, down = (torch.randn(*shape, generator=generator).mul(size).requires_grad_()
                       for shape, size in (((8, 32), 1.0), ((32, 64), 0.2), ((64, 8), 0.1)))
    optimizer, losses = torch.optim.Adam([table, up, down], 1e-2), []
    for _ in range(steps):
        thrown = torch.randint(8, (256, 5), generator=generator)
        logits = torch.relu(norm(table[thrown[:, :-1]], 4, torch.ones(32), torch.zeros(32)) @ up) @ down
        losses.append(F.cross_entropy(logits.flatten(0, 1), thrown[:, 1:].flatten()))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    return sum(loss.item() for loss in losses[-30:]) / 30

# %% name="dice_foretold" tags=["compare"]
x = torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(6))
moves = who_moves(found_somewhere, x, torch.ones(32), torch.zeros(32))
cheating = dice_loss(found_somewhere)
assert moves.all() and cheating < math.log(8) - 0.2
print(f"changing one token moves {int(moves[:, 0].sum())} of 6 outputs")
print(f"loss on fair dice {cheating:.1f}, ln 8 = {math.log(8):.2f}: it has seen the next throw")

# %% exercise="layers.group_norm.group_norm"

# %% name="dice_again" tags=["compare"]
moves = who_moves(group_norm, x, torch.ones(32), torch.zeros(32))
honest = dice_loss(group_norm)
assert torch.equal(moves, torch.eye(6, dtype=torch.bool)) and honest > math.log(8) - 0.02
print("changing one token moves its own output and no other")
print(f"loss on fair dice {honest:.2f}, ln 8 = {math.log(8):.2f}")

# %% [markdown]
# A loss that is too good is a bug report. A mean over time is enough: knowing the mean of four throws and three of
# them, you know the fourth. BatchNorm over (B, T) leaks in the same way, which is one more reason why no language model
# has it.

# %% [markdown]
# ## Forty-eight layers
#
# Now the place of the norm. First write the design that most models have, for any number of branches.

# %% exercise="layers.residual.pre_norm_block"

# %% [markdown]
# The stacks below are as small as they can be: 48 FFNs of width 64, each in a branch of its own, on points that a
# single matrix could classify into ten classes. Depth is all that is hard about them. Stacks with different seeds run
# side by side in one tensor.
#
# **Predict.** By what factor is the variance of the stream larger after 48 pre-norm branches than before them? And
# after 48 post-norm branches?

# %%
guess_growth_pre, guess_growth_post = None, None

# %% name="streams_and_gradients_by_depth"
from minillm.course.scenes.deep_stacks import fresh_stack, read_stack, stack_streams, train_stack

MANY = range(12)
readings = {}
with mine.active():  # what runs in here are your functions, where you have them
    for place in ("pre-norm", "sandwich", "post-norm", "no residual"):
        readings[place] = read_stack(fresh_stack(place, 48, MANY), MANY)
growth = {place: reading.variance[-1] for place, reading in readings.items()}
ratio = {place: (reading.gradient[0] / reading.gradient[-1]) for place, reading in readings.items()}
for place in readings:
    print(f"{place:12s} variance × {growth[place].median():4.1f}   gradient of the first layer, the last = 1: "
          f"{ratio[place].median():.2f} ({ratio[place].min():.2f} to {ratio[place].max():.2f} in 12 seeds)")
unchecked = read_stack(fresh_stack("no norm", 48, MANY), MANY).variance[-1].min()
print(f"{'no norm':12s} variance × more than {10 ** int(math.log10(unchecked)):,}")
assert unchecked > 1e6 and growth["pre-norm"].min() > 15 and (growth["post-norm"] - 1).abs().max() < 0.1
assert growth["sandwich"].min() > 30
assert ratio["pre-norm"].min() > 1.2 and ratio["post-norm"].median() < 0.6
print(f"you said {guess_growth_pre} and {guess_growth_post}")
mine.table()

# %% name="pictures_by_depth"
figure, panels = plots.new_figure(2, width=8.8, height=3.4)
norm_pictures.depth_chart(panels[0], {place: [v.median().item() for v in r.variance] for place, r in readings.items()},
                          "The stream grows, or it does not", "variance, input = 1")
norm_pictures.depth_chart(panels[1], {place: [g.median().item() for g in r.gradient] for place, r in readings.items()},
                          "Where the gradient is large", "gradient of the layer's first matrix", first=1)
panels[0].legend(fontsize=9, frameon=False)
plots.show(figure, alt="Left: variance climbs for pre-norm and sandwich and stays 1 for the others. Right: gradients "
           "fall with depth for pre-norm and sandwich and rise for the others")

# %% [markdown]
# In a pre-norm stack each part reads a vector of the same size and answers with one of the same size. Variances add up,
# so the stream's variance grows like the number of layers: a straight line, bent here by the logarithmic axis. That has
# a price. The later a branch comes, the smaller its answer is beside the stream it is added to:

# %% name="later_layers_say_less" tags=["compare"]
from minillm.course.scenes.deep_stacks import labelled_points

stack = fresh_stack("pre-norm", 48, MANY)
with torch.no_grad():
    streams = stack_streams(stack, labelled_points(MANY)[0])
steps = [((after - before).norm(dim=-1) / before.norm(dim=-1)).mean().item()
         for before, after in zip(streams, streams[1:], strict=False)]
assert steps[0] > 0.5 and steps[-1] < 0.2 and steps[0] > 3 * steps[-1]
for layer in (1, 4, 16, 48):
    print(f"layer {layer:2d} changes the stream by {steps[layer - 1]:.0%} of its size")

# %% [markdown]
# A deep pre-norm model is in effect less deep than it looks. Post-norm has no such loss: every layer sees a stream of
# size 1 and can turn it as far as the first. So why does not everybody use post-norm? Train them.

# %% name="forty_eight_layers"
from minillm.course.scenes.deep_stacks import PLACES

THREE = (0, 1, 2)
histories = {place: train_stack(fresh_stack(place, 48, THREE), THREE, 25) for place in PLACES[:5]}
last = {place: history[-1] for place, history in histories.items()}
print(f"after 25 steps of Adam, 2e-3 from the first; guessing costs ln 10 = {math.log(10):.2f}")
for place in last:
    print(f"{place:12s}", " ".join(f"{loss:.3f}" for loss in last[place].tolist()))
stuck = {place for place in last if last[place].min() > 1.8}
learned = {place for place in last if last[place].max() < 0.1}
assert stuck == {"post-norm", "no residual"} and learned == {"pre-norm", "sandwich", "DeepNorm"}
print("stuck:", sorted(stuck), "- you said", guess_stuck)
figure, (axes,) = plots.new_figure(height=3.2)
norm_pictures.depth_chart(axes, {place: history.mean(1).tolist() for place, history in histories.items()},
                          "The same parts, the norm in another place", "loss, mean of 3 seeds")
axes.legend(fontsize=9, frameon=False)
axes.set_xlabel("step", fontsize=9)
plots.show(figure, alt="Pre-norm, sandwich and DeepNorm fall to 0.01; post-norm and no residual stay near ln 10")

# %% [markdown]
# ### What happens in the first step
#
# "The gradient vanishes." Look again at the picture of the gradients: in a *fresh* post-norm stack the first layers get
# about as much gradient as in pre-norm, the last ones more. Nothing has vanished. Take one step of Adam, then read
# again. **Likeness** is the mean cosine between different points: 0 if they lie in all directions, 1 if they have
# become one.

# %% name="the_first_step"
print("              likeness of the points       gradient of the first layer")
print("              fresh  1 step  2 steps       fresh   1 step   2 steps")
alike, arriving = {}, {}
for place in ("pre-norm", "post-norm", "no residual", "DeepNorm"):
    stack, seen = fresh_stack(place, 48, THREE), []
    for _ in range(3):
        seen.append(read_stack(stack, THREE))
        train_stack(stack, THREE, 1)
    alike[place] = [reading.likeness[-1].min().item() for reading in seen]
    arriving[place] = [reading.gradient[0].max().item() for reading in seen]
    print(f"{place:12s}", " ".join(f"{value:7.3f}" for value in alike[place]), "     ",
          " ".join(f"{value:8.4f}" for value in arriving[place]))
for place in ("post-norm", "no residual"):
    assert alike[place][2] > 0.99 and arriving[place][2] < 0.1 * arriving[place][0]
    assert arriving[place][0] > 0.3, "before the first step the gradient was there"
assert alike["pre-norm"][2] < 0.97 and alike["DeepNorm"][2] < 0.3

# %% [markdown]
# There it is. Adam's first step moves every weight by the full rate, whatever the size of its gradient. In 48 layers
# these moves add up, all in one direction, and post-norm carries them on: all points land on one spot. Then no gradient
# can tell them apart, and *then* it vanishes. The step was too large, and the vanishing is its consequence. (Liu et al.
# 2020, section 4, find the same in real Transformers: small changes of the parameters are amplified.)
#
# If that is so, smaller first steps must help. That is what a **warm-up** is for.

# %% name="a_warm_up_saves_post_norm" tags=["compare"]
warmed = train_stack(fresh_stack("post-norm", 48, THREE), THREE, 50, warmup_steps=80)
assert warmed[-1].max() < 0.1 and last["post-norm"].min() > 1.8
assert ratio["post-norm"].median() < 0.6 and ratio["pre-norm"].min() > 1
print("post-norm, 48 layers, the rate rising over 80 steps: all three seeds below 0.1 after 50")
print("the same stacks at full rate from the start: all three above 1.8 after 25")

# %% [markdown]
# So post-norm is not broken. BERT and the first Transformer were trained with it, with a warm-up and few layers. But
# the deeper, the more careful the beginning has to be, and pre-norm needs none of that.
#
# ## DeepNorm
#
# DeepNorm keeps post-norm's stream of size 1 and makes the first steps harmless in another way: the stream counts
# $\alpha > 1$ times, and fresh weights are $\beta < 1$ times as large:
#
# $$x \leftarrow \mathrm{LN}(\alpha\, x + \mathrm{part}(x))$$
#
# Both depend on the depth. The constants come from a bound on how far the first update can move the output.

# %% exercise="layers.deepnorm.deepnorm_constants"

# %% name="deepnorm_bounds_the_first_step"
alpha, beta = deepnorm_constants(48)
assert abs(alpha - 96**0.25) < 1e-9 and abs(beta - 384**-0.25) < 1e-9
print(f"48 layers: alpha {alpha:.2f}, beta {beta:.3f}")
points = labelled_points(THREE)[0]
moved = {"post-norm": [], "DeepNorm": []}
depths = (6, 12, 24, 48)
for place in moved:
    for depth in depths:
        stack = fresh_stack(place, depth, THREE)
        before = stack_streams(stack, points)[-1].detach()
        train_stack(stack, THREE, 1)
        after = stack_streams(stack, points)[-1].detach()
        moved[place].append(((after - before).norm(dim=-1) / before.norm(dim=-1)).mean().item())
    print(f"{place:9s} one step moves the output by", *(f"{share:.0%}" for share in moved[place]), "of its size")
assert max(moved["DeepNorm"]) < 0.3 and moved["post-norm"][-1] > 0.7
assert last["DeepNorm"].max() < 0.1 and last["post-norm"].min() > 1.8
figure, (axes,) = plots.new_figure(height=2.8)
plots.line_chart(axes, {name: (depths, shares) for name, shares in moved.items()}, "What one step of Adam does",
                 "layers", "change of the output / its size")
axes.set_ylim(bottom=0)
plots.show(figure, alt="With depth post-norm's first step comes to move all of the output; DeepNorm's moves little")

# %% [markdown]
# ### What DeepNorm is not
#
# A sheet of interview answers that many have learned from gives this as "DeepNorm": `Linear`, `LayerNorm`, `ReLU`,
# again and again. There is no residual in it, no alpha, no beta. A simple test tells the two apart: let the parts say
# nothing.

# %% name="deepnorm_with_silent_parts" tags=["compare"]
from minillm.layers import residual

generator = torch.Generator().manual_seed(7)
two = torch.randn(2, 64, generator=generator, dtype=torch.float64)
ones = torch.ones(64, dtype=torch.float64)
real, popular = two, two
for _ in range(48):
    real = residual.deepnorm_branch(real, lambda h: layer_norm(h, ones), torch.zeros_like, alpha)
    popular = torch.relu(layer_norm(torch.zeros_like(popular), ones))
from_norm = (real - layer_norm(two, ones)).abs().max().item()
assert from_norm < 1e-4 and (real[0] - real[1]).abs().max() > 1 and (popular[0] - popular[1]).abs().max() == 0
print("48 DeepNorm branches with silent parts: LayerNorm of the input, to 1e-4; two inputs stay apart")
print(f"the popular code: two inputs differ by {(popular[0] - popular[1]).abs().max():.0f}; nothing of them is left")

# %% [markdown]
# It is of the kind of the first drawing, and you have seen how that trains. Nor does DeepNorm save norms or parameters,
# as one can also read:

# %% name="deepnorm_costs_nothing"
from dataclasses import replace

from minillm.config import Init
from minillm.model.gpt import GPT

readings["DeepNorm"] = read_stack(fresh_stack("DeepNorm", 48, MANY), MANY)
ratio["DeepNorm"] = readings["DeepNorm"].gradient[0] / readings["DeepNorm"].gradient[-1]
for place in ("post-norm", "DeepNorm", "pre-norm"):
    print(f"{place:9s} gradient first / last: {ratio[place].min():.2f} to {ratio[place].max():.2f} in 12 seeds")
assert 0.85 < ratio["DeepNorm"].min() and ratio["DeepNorm"].max() < 1.15 and ratio["post-norm"].median() < 0.6
small = preset("tiny", vocab_size=128)
counts = {name: sum(p.numel() for p in GPT(replace(small, residual=name)).parameters())
          for name in ("pre", "post", "deepnorm", "sandwich")}
assert counts["post"] == counts["deepnorm"] < counts["pre"] < counts["sandwich"]
print("parameters of the tiny GPT:", counts)

# %% [markdown]
# DeepNorm has exactly post-norm's parameters. (Pre-norm has a final norm more, the sandwich two norms more a block.)
# Its gradients are as large in the first layer as in the last, to within 15 %. Even gradients make no model easier to
# interpret.
#
# ## Norms in two more places
#
# **Sandwich**: a second norm, on the part's answer. It bounds what a branch can add. CogView needed it against overflow
# in float16, Gemma 2 has it.
#
# **QK-norm**: a norm on every query and key, within its head. Scores are dot products: if the vectors grow in training,
# scores grow with the square, and softmax ends at one key. Under the norm both have length $\sqrt{D_h}$ at weight 1, so
# no score can pass $\sqrt{D_h}$, however large the projections become.

# %% name="qk_norm_bounds_the_scores" tags=["compare"]
from minillm.layers.qk_norm import qk_norm, qk_norm_bound
from minillm.layers.softmax import softmax

generator = torch.Generator().manual_seed(8)
q, k = torch.randn(2, 100, 64, generator=generator, dtype=torch.float64)
ones = torch.ones(64, dtype=torch.float64)
bound = qk_norm_bound(ones, ones).item()
assert bound == 8
for grown in (1, 3, 10):
    sizes, seen = [], []
    for one_q, one_k in ((grown * q, grown * k), qk_norm(grown * q, grown * k, ones, ones)):
        scores = one_q @ one_k.T / 8
        weights = softmax(scores)
        sizes.append(scores.abs().max().item())
        seen.append((-(weights * (weights + 1e-300).log()).sum(-1)).exp().mean().item())
    assert sizes[1] <= bound and abs(seen[1] - 60) < 12
    print(f"weights × {grown:2d}: largest score {sizes[0]:5.0f}, keys in view {seen[0]:3.0f};   "
          f"with QK-norm {sizes[1]:.1f} and {seen[1]:.0f}")
assert sizes[0] > 100 and seen[0] < 3

# %% [markdown]
# (*Keys in view* is the exponential of the entropy: 100 if all keys weigh the same, 1 if one has everything.)
#
# ## Which model has which?
#
# No need to learn it by heart: two measurements tell. Behind a norm, every token has mean square 1; so a post-norm
# model's stream has that after each block, a pre-norm model's has not. And only LayerNorm fails to notice when the same
# number is added to all features. Here are six families, each in its own design; the project's tests make the same two
# measurements on Hugging Face's classes.

# %% name="norms_of_six_models" tags=["compare"]
from minillm.config import Norm
from minillm.course.scenes.norm_census import CENSUS, ends_in_a_norm, norm_kind
from minillm.layers.recorder import record

token_ids = torch.arange(12)[None]
for name, design in CENSUS.items():
    config = replace(small, norm=Norm(design.kind), residual=design.place)
    model = GPT(config, torch.Generator().manual_seed(0))
    with torch.no_grad(), record("residual") as tape:
        model(token_ids)
        kind = norm_kind(model.blocks[0].attn_norm, small.d_model)
    place = "post" if ends_in_a_norm(tape["residual"][1]) else "pre"
    assert (kind, place) == (design.kind, design.place)
    print(f"{name:6s} {place:4s} {'LayerNorm' if kind == 'layer' else 'RMSNorm':9s} {design.source}")

# %% [markdown]
# There is no "GPT-Norm" and no "token-wise and segment-wise LayerNorm" of XLNet, as a popular answer has it. GPT-1 was
# post-norm, GPT-2 changed to pre-norm; XLNet is post-norm with the ordinary LayerNorm. Beyond the six: OPT is pre-norm
# except for its 350M model, BLOOM has one norm more on the embedding, GLM-130B has DeepNorm, Gemma 2 the sandwich,
# Qwen3 adds QK-norm.

# %% [markdown]
# ## All of it in one table
#
# The same small GPT, the same text (the documentation of Python, by characters), the same budget, three seeds. Below
# that a GPT of 48 thin blocks: fresh, and after a short training, at full rate from the first step and with a warm-up
# over half of the run. It was measured once, by the command that is shown; nothing in this cell trains.

# %% name="the_stored_table" tags=["compare"]
from minillm.bench.results import load_table
from minillm.bench.variants import harness

stored = load_table("norms")
rows = {row["name"]: row["values"] for row in stored["rows"]}
print(stored["command"], "-", len(stored["seeds"]), "seeds, torch", stored["torch"])
for name, values in rows.items():
    if "loss" in values:
        print(f"{name:22s} {min(values['loss']):.3f} to {max(values['loss']):.3f} nats a character")
for name, values in rows.items():
    if "variance by depth" in values:
        growth_48, first_last = (sorted(values[key])[1] for key in ("variance, last / first", "gradient, first / last"))
        trained = [f"{sorted(values[key])[1]:.2f}" for key in ("loss, no warm-up", "loss, warm-up") if key in values]
        print(f"{name:22s} variance × {growth_48:<8.3g} gradient first / last {first_last:5.2f}   "
              f"loss {', with warm-up '.join(trained) or 'not trained'}")
share = harness.text_ids("train").bincount(minlength=len(harness.ALPHABET)).double() + 1
blind = -(share / share.sum()).log()[harness.text_ids("validation")].mean().item()
print(f"knowing only how frequent each character is: {blind:.2f}")

# %% name="what_the_table_says" tags=["compare"]
mean = {name: {key: sum(runs) / len(runs) for key, runs in values.items() if not isinstance(runs[0], list)}
        for name, values in rows.items()}
base = mean["pre, LayerNorm"]["loss"]
assert abs(mean["pre, RMSNorm"]["loss"] - base) < 0.05 and abs(mean["pre, RMSNorm, QK-norm"]["loss"] - base) < 0.05
for name in ("pre, BatchNorm", "sandwich, LayerNorm", "post, LayerNorm", "pre, no norm", "DeepNorm, LayerNorm"):
    behind = mean[name]["loss"] - base
    assert behind > 0.1
    print(f"2 blocks:  {name:20s} is {behind:.2f} nats behind pre-norm")
deep = {place: mean[f"48 layers, {place}"] for place in ("pre", "DeepNorm", "sandwich", "post")}
for place, values in deep.items():
    print(f"48 blocks: {place:20s} {blind - values['loss, no warm-up']:5.2f} better than frequencies alone, "
          f"with warm-up {blind - values['loss, warm-up']:5.2f}")
assert all(blind - deep[place]["loss, no warm-up"] > 0.4 for place in ("pre", "DeepNorm", "sandwich"))
assert all(abs(blind - deep["post"][key]) < 0.15 for key in ("loss, no warm-up", "loss, warm-up"))

# %% [markdown]
# RMSNorm costs nothing here, and neither does QK-norm. BatchNorm is behind, measured as it is used: in its other mode.
# With two blocks DeepNorm is the slowest of all; its cure, small weights beside a heavy stream, is for an illness that
# two blocks do not have (that this is the reason is our guess). With 48 blocks it is as good as pre-norm, while
# post-norm has learned how frequent the characters are and nothing else. A block has two branches, so this stack is
# twice as deep as the one above, and even a warm-up over half of the short run did not start it.
#
# And a small honest run of your own: LayerNorm and RMSNorm, two seeds, much shorter than in the table.

# %% name="a_short_run_of_both"
short = {}
for kind in ("layer", "rms"):
    config = replace(harness.BASE, norm=Norm(kind), init=Init(0.1, 0.05, "plain"))
    models = [harness.train_variant(config, seed, train_len=32, batch_size=16, steps=40) for seed in (0, 1)]
    windows = harness.text_windows("validation", 32, 128)
    short[kind] = [harness.loss_by_position(model, windows, 64).mean().item() for model in models]
    print(f"{kind:5s}", " ".join(f"{loss:.2f}" for loss in short[kind]), "nats a character")
gap = abs(sum(short["layer"]) - sum(short["rms"])) / 2
assert max(short["layer"] + short["rms"]) < 3.3 and gap < 0.15
print(f"apart by {gap:.2f}")

# %% [markdown]
# ## Myth and measurement
#
# "Residual connections were invented because gradients vanish in deep networks." It tempts, because the identity in
# $\partial(x + \mathrm{part}(x)) / \partial x = I + \dots$ does help a gradient. But He et al. say themselves that
# their plain networks, with BatchNorm, had healthy gradients. What they saw was **degradation**: a deeper plain network
# has a higher *training* error, although it could copy the shallower one and do nothing in the rest. Your measurement,
# without residuals and with a norm in each layer:

# %% name="deeper_plain_stacks_train_worse"
plain = {depth: train_stack(fresh_stack("no residual", depth, THREE), THREE, 25)[-1] for depth in (3, 6, 24)}
plain[48] = last["no residual"]
for depth, losses in plain.items():
    print(f"{depth:2d} layers without residual: training loss", " ".join(f"{loss:.2f}" for loss in losses.tolist()))
print("48 layers with residual, pre-norm:     ", " ".join(f"{loss:.2f}" for loss in last["pre-norm"].tolist()))
assert max(plain[3].max(), plain[6].max()) < 0.5 and plain[48].min() > 1.8 and last["pre-norm"].max() < 0.1
first_layer = {place: readings[place].gradient[0].median().item() for place in ("no residual", "pre-norm")}
alike = {place: readings[place].likeness[-1].median().item() for place in first_layer}
assert first_layer["no residual"] > 0.5 * first_layer["pre-norm"]
assert alike["no residual"] > 0.9 and alike["pre-norm"] < 0.7
for place in first_layer:
    print(f"fresh, 48 layers, {place:11s}: gradient of the first layer {first_layer[place]:.1f}, "
          f"likeness of the points at the end {alike[place]:.2f}")

# %% [markdown]
# The gradient that reaches the first layer without residuals is about as large as in pre-norm. What has been lost was
# lost on the way forward: after 48 layers all points look alike before any training. A residual stream carries the
# input itself past every layer.

# %% [markdown]
# ## Explore
#
# Two designs beside each other, fresh, three seeds. Take "no norm" and turn the factor on fresh weights up and down.
# Find out at which depth post-norm's points become one. Compare DeepNorm with pre-norm at 96 layers.

# %% name="explorer"
from minillm.course.scenes.norm_explorer import depth_picture, norm_controls
from minillm.course.widgets import Explorer

Explorer(
    depth_picture,
    "Pre-norm and post-norm at 48 layers: variance of the stream, likeness of the points, gradients layer by layer",
    **norm_controls(),
)

# %% [markdown]
# ## Interview corner
#
# Answer aloud before you unfold. Each answer names the cell that proves it.

# %% [markdown] interview="05"

# %% [markdown]
# ## Remember
#
# 1. LayerNorm and RMSNorm look at one token and nothing else; eps inside the root, variance over D, gain on top. A norm
#    that looks along time or batch lets information through.
# 2. Where the norm stands decides: pre-norm leaves the stream alone, needs no warm-up, and its late layers say less;
#    post-norm keeps every layer strong, and its first steps must be small.
# 3. What kills a deep post-norm stack is the first large step, which makes all inputs alike. DeepNorm and warm-up both
#    bound that step.
#
# **Where next.** Lesson 06 builds the other part of the branch: the FFN, its activations and gates, and mixtures of
# experts. Lesson 08 opens the optimizer whose first step you have just measured.
