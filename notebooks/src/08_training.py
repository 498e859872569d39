# %% [markdown]
# # 08 Training
#
# A training step is four lines long. Behind each of them is a question that decides whether a run works, whether it
# fits, and what it costs: how far to move, how fast, on how many tokens, in which numbers, and on how many devices. You
# write the optimizer, its schedule, clipping, accumulation, the loss scale and a sharded step. Then you measure what a
# step holds in memory, to the byte, and take it apart: over micro-batches, over time, over processes.
#
# | | |
# |---|---|
# | **You need** | lesson 07 (the GPT and its loss); helpful: lessons 00 and 05 |
# | **Time** | about an hour and a half for the eight exercises, as much for the rest |
# | **Runs on** | any CPU with 2 GB; all cells together half a minute to a minute, some of it pairs of processes |
#
# **Sources.** Kingma and Ba 2014 (Adam), algorithm 1; Loshchilov and Hutter 2017 (AdamW), algorithm 2, and 2016 (SGDR),
# equation 5; Pascanu et al. 2013 (clipping), section 3.2; Micikevicius et al. 2017 (mixed precision), section 3; Ott et
# al. 2018 (Scaling NMT), section 3; Chen et al. 2016 (checkpointing); Korthikanti et al. 2022, section 4.1;
# Rajbhandari et al. 2019 (ZeRO), sections 3 and 5; Shoeybi et al. 2019 (Megatron-LM), section 3; Huang et al. 2018
# (GPipe), section 2; Patarasuk and Yuan 2009 (the ring); Wei et al. 2022 and Schaeffer et al. 2023 (emergence).
#
# An exercise is three cells: the task with folded hints, a cell for your function, and a check that tells you which
# mistake you made. Until yours is right, the lesson goes on with the course's own.

# %% [markdown]
# ## What a step holds
#
# **Predict.** GPT-2 small has 124 million weights: half a GiB in float32. You train it with AdamW, eight sequences of
# 1,024 tokens at a time. How many GiB does a step take, and what is the largest part? Write it down, then run the cell.

# %%
guess_gib, guess_part = None, "?"  # a number; weights, gradients, moments, activations or logits

# %% name="where_the_memory_goes" tags=["compare"]
import torch

from minillm.config import preset
from minillm.course import check, hint, mine, plots, reset, solution  # noqa: F401
from minillm.course.scenes import training_pictures
from minillm.training import memory

torch.set_num_threads(1)  # these matrices are small: a second thread would only wait for the first
GIB = training_pictures.GIB
steps = {name: memory.training_bytes(preset("gpt2"), n, 1024) for name, n in (("1 sequence", 1), ("8 sequences", 8))}
parts = {name: size / GIB for name, size in steps["8 sequences"].items()}
largest = max(training_pictures.PARTS, key=parts.get)
print(f"{parts['total']:.1f} GiB, of which {largest} {parts[largest]:.1f}; weights {parts['weights']:.2f}")
print(f"you said {guess_gib} GiB and {guess_part}")
assert largest == "activations" and parts["activations"] > 15 * parts["weights"]
figure, (axes,) = plots.new_figure(width=8.6, height=2.7)
training_pictures.memory_bars(axes, steps, "GPT-2 small, one training step in float32")
plots.show(figure, alt="Two stacked bars: with one sequence weights, gradients and moments are about half of 3.6 GiB; "
           "with eight, activations and logits are most of 15.5 GiB")

# %% [markdown]
# No part is smaller than the weights. Three things are worth knowing by heart, and the lesson derives and measures
# each:
#
# - **State**: weight, gradient and AdamW's two averages, 16 bytes a weight. It does not depend on the batch.
# - **Activations**: what the backward pass will read again. They grow with the batch and with the number of layers.
# - **Logits**: one number for each token *and each word of the vocabulary*, in float32.
#
# We begin with the last of them, and go from there backwards through the model: loss, gradient, step.

# %% [markdown]
# ## The loss, with care
#
# Lesson 07 had the loss in one line: minus the logarithm of the softmax, at the right token. Written like that it
# breaks as soon as logits are large. By hand, for two logits, 0 and 100, the right token being the first: the
# probability is $1 / (1 + e^{100})$, whose logarithm is −100 to all digits that anyone could want. In float32 $e^{100}$
# is infinite.

# %% name="loss_with_care"
import math

import torch.nn.functional as F

from minillm.layers import loss as losses

right = torch.tensor([0])
for size in (10.0, 100.0, 10_000.0):
    logits = torch.tensor([[0.0, size]])
    in_one_line = -torch.log(torch.exp(logits) / torch.exp(logits).sum(-1, keepdim=True))[0, 0].item()
    with_care = losses.cross_entropy(logits, right).item()
    print(f"logits 0 and {size:6.0f}: in one line {in_one_line:8.1f}, with the largest subtracted {with_care:8.1f}")
    assert abs(with_care - size) < 0.1 and (size < 50) == math.isfinite(in_one_line)

generator = torch.Generator().manual_seed(0)
logits = torch.randn(64, 50_257, generator=generator)
targets = torch.randint(50_257, (64,), generator=generator)
exact = F.cross_entropy(logits.double(), targets).item()
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    kept = losses.cross_entropy(logits.to(dtype), targets).item()
    cast = losses.cross_entropy(logits.to(dtype).float(), targets).item()
    print(f"{str(dtype)[6:]:8s} loss off by {abs(kept - exact):.0e}; only the logits in it: {abs(cast - exact):.0e}")
    assert abs(cast - exact) < 2e-3
    assert dtype != torch.bfloat16 or abs(kept - exact) > 5 * abs(cast - exact)

# %% [markdown]
# Two rules, then. Subtract the largest logit before you take exponentials (the subtraction changes nothing: it cancels
# in the fraction). And cast logits to float32 *before* the softmax: a sum over 50,257 exponentials loses its small
# terms in 16 bits. That is why the logits are such a large part of the picture.
#
# The gradient of all this is short: probability minus one at the right token, probability elsewhere.
#
# ## AdamW
#
# Why not simply go against the gradient? Take two weights and the loss $\tfrac12 x^2 + \tfrac{100}{2} y^2$: a valley, a
# hundred times steeper across than along. By hand: at (4, 1) the gradient is (4, 100). A step that is small enough not
# to be thrown out of the valley, below 2/100, is too small to get anywhere along it.

# %% name="a_valley"
def descend(optimizer_of, n_steps=40, steep=100.0):
    point = torch.tensor([4.0, 1.0], requires_grad=True)
    optimizer, path = optimizer_of([point]), [point.detach().clone()]
    for _ in range(n_steps):
        optimizer.zero_grad()
        (0.5 * (point[0] ** 2 + steep * point[1] ** 2)).backward()
        optimizer.step()
        path.append(point.detach().clone())
    return torch.stack(path)


paths = {
    "gradient, step 0.018": descend(lambda p: torch.optim.SGD(p, 0.018)),
    "gradient, step 0.005": descend(lambda p: torch.optim.SGD(p, 0.005)),
    "Adam, step 0.2": descend(lambda p: torch.optim.Adam(p, 0.2, betas=(0.6, 0.95))),
}
figure, (axes,) = plots.new_figure(width=7.2, height=3.2)
training_pictures.descent_paths(axes, paths, 100.0, "Forty steps down a valley, a hundred times steeper across")
plots.show(figure, alt="Plain gradient steps jump from wall to wall or creep; "
           "Adam moves both weights alike and gets to the middle")
left = {name: path[-1, 0].abs().item() for name, path in paths.items()}
print({name: round(x, 2) for name, x in left.items()})
assert left["Adam, step 0.2"] < 0.1 and 1.5 < left["gradient, step 0.018"] < left["gradient, step 0.005"]

# %% [markdown]
# Adam gives every weight its own step. It keeps two running averages for each: of the gradient $g$ and of its square.
#
# $$m \leftarrow \beta_1 m + (1 - \beta_1)\, g, \qquad s \leftarrow \beta_2 s + (1 - \beta_2)\, g^2, \qquad
# w \leftarrow w - \eta\, \frac{\hat m}{\sqrt{\hat s} + \varepsilon} - \eta\, \lambda\, w$$
#
# The hats mean that both averages are divided by $1 - \beta^t$, because they began at 0 and are too small at first. The
# last term is the decay; the W in the name says that it does not pass through the averages. The code calls $m$
# `exp_avg` and $s$ `exp_avg_sq`.
#
# **Predict.** The first step, gradient 0.001, rate 0.1, no decay: how far does the weight move? And with a gradient of
# 1000?

# %%
guess_small, guess_large = None, None

# %% exercise="training.adamw.adamw_step"

# %% name="the_first_step" tags=["compare"]
zero = torch.zeros(())
for grad in (0.001, 1000.0):
    param, mean, mean_square = adamw_step(zero, torch.tensor(grad), zero, zero, 1, 0.1, weight_decay=0.0)
    print(f"gradient {grad:8.3f}: the weight moves to {param:.4f}; averages {mean:.4g} and {mean_square:.4g}")
    assert abs(param + 0.1) < 1e-4
print("you said", guess_small, "and", guess_large)

# %% [markdown]
# One rate, whatever the size of the gradient: that is what the quotient does. It is also why lesson 05's deep stacks
# could be thrown off by their first step, and why a run needs a warm-up.
#
# Now against torch, on a whole GPT: the same gradients into both, twenty steps.

# %% name="against_torch" tags=["compare"]
from minillm.bench.variants import harness
from minillm.model.gpt import GPT
from minillm.training import accumulation

ours, theirs = (GPT(harness.BASE, torch.Generator().manual_seed(1)) for _ in range(2))
optimizer = torch.optim.AdamW(theirs.parameters(), 1e-2, betas=(0.9, 0.95), weight_decay=0.1)
averages = {p: (torch.zeros_like(p), torch.zeros_like(p)) for p in ours.parameters()}
batches = harness.text_batches(0, 32, 4)
for step in range(1, 21):
    batch = next(batches)
    for model in (ours, theirs):
        model.zero_grad()
        accumulation.batch_loss(model, *batch).backward()
    optimizer.step()
    with torch.no_grad():
        for p, own in averages.items():
            new, *averages[p] = adamw_step(p, p.grad, *own, step, 1e-2)
            p.copy_(new)
apart = max((a - b).abs().max().item() for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
moved = (ours.tok_emb.weight - GPT(harness.BASE, torch.Generator().manual_seed(1)).tok_emb.weight).abs().max().item()
print(f"after 20 steps weights have moved by up to {moved:.1f}, and yours differ from torch's by less than 0.001")
assert apart < 1e-3 < 0.1 < moved

# %% [markdown]
# ### What the W changes
#
# In Adam as it was first published, one adds $\lambda w$ to the gradient. Then it is divided by $\sqrt{\hat s}$ like
# all else, so that a weight with large gradients hardly decays. Two weights that start at 1, with gradients that cancel
# out, ±10 for the first and ±0.001 for the second:

# %% name="decay_outside_of_the_averages" tags=["compare"]
ends = {}
for name in ("in the gradient", "outside of it"):
    weights, first, second = torch.ones(2), torch.zeros(2), torch.zeros(2)
    for step in range(1, 1001):
        noise = torch.tensor([10.0, 0.001]) * (-1) ** step
        grad = noise + 0.1 * weights if name == "in the gradient" else noise
        decay = 0.0 if name == "in the gradient" else 0.1
        weights, first, second = adamw_step(weights, grad, first, second, step, 3e-3, weight_decay=decay)
    ends[name] = weights.tolist()
    print(f"decay {name:15s}: after 1,000 steps the weights are {weights[0]:.2f} and {weights[1]:.2f}")
assert abs(ends["outside of it"][0] - ends["outside of it"][1]) < 0.02
assert ends["in the gradient"][0] > 0.9 and abs(ends["in the gradient"][1]) < 0.1

# %% [markdown]
# Outside of the averages both decay alike, by $\eta\lambda$ a step. Inside them, the weight that training cares about
# less is pulled to zero by force, and the other is held much more loosely than you asked for.
#
# Only matrices decay here: zero is no natural value for a norm's gain, and an embedding row of a rare word would be
# erased while it waits. (`minillm.training.optimizer.decay_groups` sorts them.)

# %% [markdown]
# ## Schedules
#
# How large should the rate be? Large, to get there; small, to stay there. Each step follows the gradient of one batch,
# which points only roughly downhill, and a large rate makes large errors of it. A schedule has both: up in a straight
# line (the warm-up), then down.

# %% exercise="training.schedule.cosine_lr"

# %% name="three_schedules"
from minillm.training import schedule

rates = {
    "cosine": [cosine_lr(step, 200, 20, 1.0, floor=0.1) for step in range(201)],
    "linear over the last 60 %": [schedule.linear_lr(step, 200, 20, 1.0) for step in range(201)],
    "constant": [1.0] * 201,
}
assert rates["cosine"][20] == 1.0 and abs(rates["cosine"][200] - 0.1) < 1e-9
figure, (axes,) = plots.new_figure(height=2.8)
training_pictures.schedule_chart(axes, rates, "Warm up, then come down")
axes.legend(fontsize=9, frameon=False, loc="lower center")
plots.show(figure, alt="Both schedules rise over 20 steps; the cosine bends down to a tenth, the line stays at the "
           "peak and then falls to zero")

# %% [markdown]
# **Predict.** 500 weights in a bowl, gradients with noise, 300 steps, your AdamW. Rate 0.1 all the way, 0.003 all the
# way, or your cosine from 0.1: which ends lowest?

# %% name="large_then_small" tags=["compare"]
def noisy_bowl(rate_at, seed, n_steps=300):
    generator = torch.Generator().manual_seed(seed)
    weights, first, second = torch.full((500,), 3.0), torch.zeros(500), torch.zeros(500)
    for step in range(n_steps):
        grad = weights + 0.5 * torch.randn(500, generator=generator)
        weights, first, second = adamw_step(weights, grad, first, second, step + 1, rate_at(step), weight_decay=0.0)
    return 0.5 * weights.square().mean().item()


ends = {
    "0.1 all the way": [noisy_bowl(lambda step: 0.1, seed) for seed in range(3)],
    "0.003 all the way": [noisy_bowl(lambda step: 0.003, seed) for seed in range(3)],
    "cosine from 0.1 to 0": [noisy_bowl(lambda step: cosine_lr(step, 300, 10, 0.1), seed) for seed in range(3)],
}
for name, values in ends.items():
    print(f"{name:22s}", " ".join(f"{value:.3f}" for value in values))
assert max(ends["cosine from 0.1 to 0"]) < 0.25 * min(min(values) for name, values in ends.items() if name[0] == "0")

# %% [markdown]
# The large rate arrives and rattles, the small one is still on its way, the cosine does both. (In a run that is far too
# short, coming down early only costs progress. That is why `minillm train` keeps the peak for 40 % of the run.)

# %% [markdown]
# ## A batch that does not fit
#
# Activations grow with the batch, and the batch you want may be larger than what fits. Gradients add up, so you can cut
# it into **micro-batches**, go backward after each, and step once. By hand: four tokens cost 1, 1, 1 and 5 nats, their
# mean is 2. Cut in half: means 1 and 3, whose mean is 2 again. Now cut it unevenly, three tokens and one:
#
# **Predict.** What is the mean of the two means?

# %%
guess_mean_of_means = None

# %% name="mean_of_means" tags=["compare"]
nats = torch.tensor([1.0, 1.0, 1.0, 5.0])
for first in (2, 3):
    pieces = nats[:first], nats[first:]
    of_means = sum(piece.mean() for piece in pieces) / 2
    by_count = sum(piece.mean() * len(piece) for piece in pieces) / len(nats)
    print(f"{first} and {4 - first} tokens: mean of the means {of_means}, weighed by tokens {by_count}")
    assert by_count == nats.mean() and (of_means == nats.mean()) == (first == 2)
print("you said", guess_mean_of_means)

# %% [markdown]
# In the mean of the means the lonely token counts three times as much as it should. Texts have unequal lengths, so
# micro-batches have unequal numbers of targets, nearly always. In October 2024 it came out that widely used training
# libraries had done it wrong for years.

# %% exercise="training.accumulation.accumulate"

# %% name="two_ways_to_accumulate"
def in_float64(model, ids, targets):
    return F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())


def gradient_of(model, backward):
    model.zero_grad()
    backward(lambda ids, targets: in_float64(model, ids, targets))
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def backward_by_means(mean_loss, pieces):
    for piece in pieces:
        (mean_loss(*piece) / len(pieces)).backward()

# %% name="accumulation_equals_the_big_batch" tags=["compare"]
from functools import partial

model = GPT(harness.BASE, torch.Generator().manual_seed(2)).double()
ids, targets = next(harness.text_batches(0, 64, 8))
short = (torch.arange(8)[:, None] > 0) & (torch.arange(64) >= 2)  # the first row counts 64 targets, the others 2
targets = targets.masked_fill(short, -100)
big = gradient_of(model, lambda mean_loss: mean_loss(ids, targets).backward())
for sizes in ([8], [4, 4], [1, 7], [1] * 8):
    pieces = list(zip(ids.split(sizes), targets.split(sizes), strict=True))
    right = gradient_of(model, partial(accumulate, micro_batches=pieces))
    wrong = gradient_of(model, partial(backward_by_means, pieces=pieces))
    off = [((grad - big).norm() / big.norm()).item() for grad in (right, wrong)]
    assert off[0] < 1e-6 and (len(sizes) == 1 or off[1] > 0.5)
    print(f"rows {str(sizes):26s} accumulate: the same to 1e-6; mean of the means: off by {off[1]:.0%}")

# %% [markdown]
# And what does it save? `kept_for_backward` counts every tensor that autograd holds for the backward pass.

# %% name="what_accumulation_saves"
from minillm.course.ledger import kept_for_backward

model = GPT(harness.BASE, torch.Generator().manual_seed(2))
kept, grads, state = {}, {}, {}
for rows in (32, 8):
    with kept_for_backward(but_not=model.parameters()) as count:
        loss = accumulation.batch_loss(model, ids[:1].expand(rows, -1), targets[:1].expand(rows, -1))
    loss.backward()
    kept[rows] = count["bytes"]
    grads[rows] = sum(p.grad.nbytes for p in model.parameters())
    print(f"{rows:2d} rows at once: activations {kept[rows]:>10,} bytes, gradients {grads[rows]:,}")
print(f"activations {kept[32] / kept[8]:.2f} times smaller, gradients and weights the same")
assert 3.8 < kept[32] / kept[8] <= 4.0 and grads[32] == grads[8]

# %% [markdown]
# A quarter of the rows, a quarter of the activations; not one byte of weights, gradients or optimizer. Nor is it
# faster: the same tokens are computed, in smaller pieces. It does not make up for rare classes either, and with
# BatchNorm (lesson 05) it would not even be equal. With several processes, exchange gradients after the last
# micro-batch only.

# %% [markdown]
# ## Clipping
#
# One strange batch can send all weights far away. Clipping bounds the length of the whole gradient, taken as one long
# vector; the direction stays.

# %% exercise="training.clipping.clip_by_norm"

# %% name="one_strange_batch"
def losses_around(strange_at, max_norm, seed, steps=40):
    model, history = GPT(harness.BASE, torch.Generator().manual_seed(seed)), []
    parameters, batches = list(model.parameters()), harness.text_batches(seed, 32, 4)
    optimizer = torch.optim.SGD(parameters, 0.03, momentum=0.9)
    for step in range(steps):
        loss = accumulation.batch_loss(model, *next(batches))
        optimizer.zero_grad()
        loss.backward()
        grads = [100 * p.grad if step == strange_at else p.grad for p in parameters]
        for p, grad in zip(parameters, clip_by_norm(grads, max_norm)[0], strict=True):
            p.grad = grad
        optimizer.step()
        history.append(loss.item())
    return history


curves = {name: [losses_around(25, most, seed) for seed in range(3)]
          for name, most in (("not clipped", math.inf), ("clipped to 1", 1.0))}
after = {name: [max(history[26:]) for history in histories] for name, histories in curves.items()}
before = {name: [history[24] for history in histories] for name, histories in curves.items()}

# %% name="clipping_bounds_the_damage"
for name in curves:
    print(f"{name:12s} before", " ".join(f"{loss:.1f}" for loss in before[name]), "  worst after",
          " ".join(f"{loss:.1f}" for loss in after[name]))
assert min(after["not clipped"]) > 2 * max(after["clipped to 1"])
assert max(b - a for a, b in zip(before["clipped to 1"], after["clipped to 1"], strict=True)) < 0.5
figure, (axes,) = plots.new_figure(height=2.9)
plots.line_chart(axes, {name: (range(40), histories[0]) for name, histories in curves.items()},
                 "A gradient a hundred times too long at step 25", "step", "loss, nats a character")
axes.set_ylim(0, 12)
plots.show(figure, alt="Two curves fall together; at step 25 the one without clipping jumps off the picture, the "
           "other goes on")

# %% [markdown]
# ## Half of the bits
#
# A float is a sign, an exponent (how large) and a mantissa (how exact). fp16 spends its 16 bits on 5 and 10, bf16 on 8
# and 7. So bf16 reaches as far as float32 and has about two exact decimal digits; fp16 has three, and ends at 65,504
# above and at 0.00000006 below.
#
# **Predict.** In fp16: what is 70,000? What is 1 + 0.0001? What is a gradient of 0.00000001? And what do you get if you
# add 1 three thousand times?

# %%
guess_70000, guess_one_and_a_bit, guess_gradient, guess_sum = None, None, None, None

# %% name="what_sixteen_bits_hold" tags=["compare"]
def added_up(dtype, times=3000):
    total = torch.zeros((), dtype=dtype)
    for _ in range(times):
        total = total + 1
    return total.item()


for dtype in (torch.float16, torch.bfloat16):
    large, near, small = (torch.tensor(x).to(dtype).item() for x in (70_000.0, 1 + 1e-4, 1e-8))
    lifted = (torch.tensor(1e-8 * 65536).to(dtype).float() / 65536).item()
    print(f"{str(dtype)[6:]:8s} 70,000 is {large:,.0f}; 1.0001 is {near}; 1e-8 is {small:.3g}, "
          f"lifted by 65,536 and back {lifted:.3g}; 3,000 ones are {added_up(dtype):.0f}")
half = [torch.tensor(x).half() for x in (70_000.0, 1 + 1e-4, 1e-8)]
assert half[0].isinf() and half[1] == 1 and half[2] == 0 and added_up(torch.float16) == 2048
assert torch.tensor(70_000.0).bfloat16().isfinite() and added_up(torch.bfloat16) == 256
assert (torch.tensor(1e-8 * 65536).half().float() / 65536 - 1e-8).abs() < 1e-11
print("you said", guess_70000, guess_one_and_a_bit, guess_gradient, guess_sum)

# %% [markdown]
# Three troubles, then, and each has its own remedy:
#
# - *Sums stop growing.* So what adds up many numbers does it in float32: softmax, norms, losses, and inside of a matrix
#   product, where the hardware does it for you.
# - *Small updates vanish* (1 + 0.0001 is 1). So the optimizer works on a **master** copy in float32, and forward and
#   backward use a rounded copy of it.
# - *Small gradients vanish*, in fp16 only. So the loss is multiplied by a large **scale** before the backward pass, and
#   the gradients are divided by it after, in float32.
#
# ### Which operation in which format?
#
# torch has the first rule built in: under `autocast` every operation picks its own. Ask it:

# %% name="which_op_in_which_format" tags=["compare"]
x, weight = torch.randn(4, 8), torch.randn(8, 8)
ops = {
    "q, k, v projections": lambda: F.linear(x, weight),
    "scores, q @ k": lambda: x @ weight,
    "softmax of scores": lambda: (x @ weight).softmax(-1),
    "layer norm": lambda: F.layer_norm(F.linear(x, weight), (8,)),
    "FFN matrices": lambda: F.linear(x, weight),
    "GELU": lambda: F.gelu(F.linear(x, weight)),
    "residual sum": lambda: x + F.linear(x, weight),
    "cross-entropy": lambda: F.cross_entropy(F.linear(x, weight), torch.zeros(4, dtype=torch.int64)),
}
with torch.autocast("cpu", torch.bfloat16):
    found = {name: str(op().dtype)[6:] for name, op in ops.items()}
for name, dtype in found.items():
    print(f"{name:20s} {dtype}")
for name in ("q, k, v projections", "scores, q @ k", "FFN matrices"):
    assert found[name] == "bfloat16"
assert found["cross-entropy"] == found["residual sum"] == "float32"

# %% [markdown]
# That is the list of a CPU; a GPU's adds softmax and norms to the float32 side. What looks like 16 bits outside is not
# always so inside: torch's 16-bit softmax and layer norm add up in float32 and round at the end. Measure it:

# %% name="sums_inside_of_a_kernel"
generator = torch.Generator().manual_seed(3)
scores = torch.randn(64, 4096, generator=generator).bfloat16()
exact = scores.double().softmax(-1)
kernel = scores.softmax(-1).double()
by_steps = torch.zeros(64, 1, dtype=torch.bfloat16)
for column in scores.exp().T:  # the same sum as a 16-bit register would make it
    by_steps = by_steps + column[:, None]
naive = (scores.exp() / by_steps).double()
totals = {name: (p.sum(-1) - 1).abs().mean().item() for name, p in (("torch's kernel", kernel), ("16-bit sum", naive))}
for name, off in totals.items():
    print(f"{name:15s} probabilities of a row add up to 1 ± {off:.2g}")
assert totals["torch's kernel"] < 0.02 and totals["16-bit sum"] > 1
inner = torch.randn(64, 4096, generator=generator).bfloat16()
product = (scores @ inner.T).double() - scores.double() @ inner.double().T
print(f"a matrix product over 4,096 terms is off by {product.abs().mean() / 64:.1e} of its usual size: one rounding")
assert product.abs().mean() / 64 < 4e-3

# %% [markdown]
# ### Masters
#
# **Predict.** A weight is 1, the rate times the gradient is 0.0001, always in the same direction. After 1,000 steps in
# pure fp16? And with a master in float32?

# %%
guess_pure, guess_master = None, None

# %% name="a_thousand_small_steps" tags=["compare"]
pure, master = torch.ones((), dtype=torch.float16), torch.ones(())
for _ in range(1000):
    pure = pure - torch.tensor(1e-4, dtype=torch.float16)
    master = master - 1e-4
    working = master.half()  # what forward and backward would use
print(f"pure fp16: {pure.item()}; with a master: {working.item():.3f}")
assert pure == 1 and abs(working.item() - 0.9) < 1e-3

# %% [markdown]
# In a real model it is not one weight. Here is a small GPT, a step of AdamW at a rate of 0.00001, as at the end of a
# run, and the share of its weights that have not moved after it:

# %% name="weights_that_stand_still"
from dataclasses import replace

from minillm.config import Init

model = GPT(replace(harness.BASE, init=Init(0.1, 0.05, "plain")), torch.Generator().manual_seed(4))
ids, targets = next(harness.text_batches(4, 64, 16))
accumulation.batch_loss(model, ids, targets).backward()
still = {}
for dtype in (torch.float32, torch.float16, torch.bfloat16):
    n_same = n_all = 0
    for p in model.parameters():
        used = p.grad != 0  # rows of characters that do not occur get no gradient
        before = p.detach().to(dtype)
        zeros = torch.zeros_like(before)
        after = adamw_step(before, p.grad.to(dtype), zeros, zeros, 1, 1e-5, eps=1e-6, weight_decay=0.0)[0]
        n_same, n_all = n_same + ((after == before) & used).sum().item(), n_all + used.sum().item()
    still[dtype] = n_same / n_all
    print(f"{str(dtype)[6:]:8s} {still[dtype]:4.0%} of the weights did not move")
assert still[torch.float32] < 0.02 and 0.5 < still[torch.float16] < still[torch.bfloat16] > 0.8

# %% [markdown]
# A run in pure bf16 does not crash. It learns while steps are large and goes deaf when the rate comes down.
#
# ### The loss scale
#
# Where are gradients smallest? At the logits. There the gradient is probability / number of tokens: with 50,257 words
# and 8,192 tokens typically 1 / 400 million. As fp16 sees them, without a scale and with one of 65,536:

# %% name="gradients_that_vanish"
generator = torch.Generator().manual_seed(6)
logits = torch.randn(32, 50_257, generator=generator)  # 32 of the 8,192 tokens
logit_gradients = logits.softmax(-1) / 8192
logit_gradients[:, 0] -= 1 / 8192  # the right token
figure, panels = plots.new_figure(2, width=9.0, height=3.0)
lost = {}
for axes, scale in zip(panels, (1.0, 65536.0), strict=True):
    as_half = (logit_gradients * scale).half()
    lost[scale] = (as_half == 0).double().mean().item()
    training_pictures.gradient_histogram(axes, logit_gradients.flatten(), scale, f"loss scale {scale:,.0f}")
    print(f"scale {scale:6,.0f}: {lost[scale]:.0%} of these gradients become 0; inf: {bool(as_half.isinf().any())}")
plots.show(figure, alt="Histograms of gradient sizes by powers of two: without a scale nearly all lie where fp16 has "
           "nothing but 0, with 65,536 nearly all lie in its range")
assert lost[1.0] > 0.9 and lost[65536.0] < 0.01 and not as_half.isinf().any()

# %% [markdown]
# Which scale is right? Nobody knows, and it changes during a run. So it is found by trying: halve it when something
# overflows, double it when nothing has for a long time.

# %% exercise="training.precision.loss_scale_step"

# %% [markdown]
# Use it at once: the same GPT, forward and backward really in fp16, from a scale that is far too large. A step whose
# gradients hold inf is left out.

# %% name="a_scale_finds_its_place"
def half_precision_run(scale, growth_interval, steps=40):
    master, good, history = GPT(harness.BASE, torch.Generator().manual_seed(5)), 0, []
    averages = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in master.named_parameters()}
    batches, taken = harness.text_batches(5, 32, 8), 0
    for _ in range(steps):
        working = GPT(harness.BASE).half()
        working.load_state_dict(master.state_dict())  # rounds
        loss = accumulation.batch_loss(working, *next(batches))
        (loss * scale).backward()
        grads = {name: p.grad.float() / scale for name, p in working.named_parameters()}
        overflow = not all(grad.isfinite().all() for grad in grads.values())
        history.append((math.log2(scale), overflow, loss.item()))
        scale, good = loss_scale_step(scale, good, overflow, growth_interval)
        taken += not overflow
        for name, p in master.named_parameters() if not overflow else ():
            p.data, *averages[name] = adamw_step(p.data, grads[name], *averages[name], taken, 3e-3)
    return history

# %% name="the_path_of_the_scale" tags=["compare"]
history = half_precision_run(2.0**24, growth_interval=8)
powers, overflows, run_losses = zip(*history, strict=True)
print(f"of {len(history)} steps some overflowed and were left out, the first one:", overflows[0])
assert overflows[0] and not all(overflows) and min(powers) < 24 and run_losses[-1] < run_losses[0] - 1
assert all(b < a for a, b, over in zip(powers, powers[1:], overflows, strict=False) if over)
figure, (axes,) = plots.new_figure(height=2.6)
plots.line_chart(axes, {"loss scale": (range(len(powers)), powers)}, "A scale that finds its place", "step",
                 "loss scale, as a power of 2")
plots.show(figure, alt="The scale falls by halves from 2 to the 24th until nothing overflows, then climbs a step every "
           "eight steps and falls back")

# %% [markdown]
# So this is the recipe of mixed precision: *masters* in float32; a rounded *working copy* for forward and backward; the
# sums in float32; for fp16 a *scale* on the loss, taken out of the gradients before anything looks at them, and a step
# left out when it overflowed. bf16 needs no scale: its smallest number is that of float32.
#
# It saves no memory for the weights: 2 bytes for the copy, 2 for its gradient, 4 for the master, 8 for the averages are
# 16, as many as in float32. What is halved is the activations; and matrix products run faster where the hardware has
# units for them.
#
# ## Find the bug: it clips, it unscales, and AdamW says nothing
#
# In somebody's fp16 training the function between the backward pass and the optimizer has a bug. Their log is
# inconspicuous: the lengths of the gradients are right, the loss falls. They train with AdamW. Then they try plain SGD.

# %% name="a_bug_that_adamw_hides"
from minillm.course.lessons.lesson_08.unscaling import clipped_first as found_somewhere


def scaled_run(prepare, optimizer_of, seed, steps=40):
    model, history = GPT(harness.BASE, torch.Generator().manual_seed(seed)), []
    parameters, batches = list(model.parameters()), harness.text_batches(seed, 32, 8)
    optimizer = optimizer_of(parameters)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = accumulation.batch_loss(model, *next(batches))
        (loss * 2.0**16).backward()
        grads, _, _ = prepare([p.grad for p in parameters], 2.0**16, 1.0)
        for p, grad in zip(parameters, grads, strict=True):
            p.grad = grad
        optimizer.step()
        history.append(loss.item())
    return history[0], sum(history[-10:]) / 10

# %% name="adamw_and_sgd"
choices = {"AdamW": lambda p: torch.optim.AdamW(p, 3e-3), "SGD": lambda p: torch.optim.SGD(p, 1.0)}
fell = {}
for name, optimizer_of in choices.items():
    first, last = scaled_run(found_somewhere, optimizer_of, 0)
    fell[name] = first - last
    print(f"{name:5s} loss from {first:.1f} to {last:.1f}")
grads, norm, _ = found_somewhere([torch.full((100,), 2.0**16 * 0.05)], 2.0**16, 1.0)
print(f"a gradient of length 0.5, reported as {norm:.1f}, reaches the optimizer with length {grads[0].norm():.1g}")
assert fell["AdamW"] > 2 and abs(fell["SGD"]) < 0.3

# %% exercise="training.unscaling.unscale_and_clip"

# %% name="sgd_again"
first, last = scaled_run(unscale_and_clip, choices["SGD"], 0)
print(f"SGD   loss from {first:.1f} to {last:.1f}")
assert first - last > 2

# %% [markdown]
# AdamW divides by the size of the gradients, so it hardly notices when all of them are 65,536 times too small; only
# `eps` does. What was lost is the clipping: every gradient, short or long, had the same length. Test the parts of a
# training loop one at a time, and with an optimizer that hides nothing.

# %% [markdown]
# ## Where the bytes are
#
# Back to the first picture. It came from a formula; now you measure. A matrix product keeps its input for the backward
# pass, a softmax its output, an activation its input. For one block with H heads, a GELU of width F and LayerNorm that
# makes, for each token,
#
# $$\underbrace{2D}_{\text{norms}} + \underbrace{D + 4 H D_h}_{\text{attention}} + \underbrace{H\,T}_{\text{scores}} +
# \underbrace{D + 2F}_{\text{FFN}} \quad\text{numbers, } 16 D + H T \text{ for } F = 4D.$$
#
# **Predict.** D = 128, H = 4, T = 128, eight rows, four layers, float32: how many MB of activations?

# %%
guess_mb = None

# %% name="predicted_and_measured"
from minillm.config import Mlp
from minillm.course.ledger import MemoryLedger

CONFIG = preset("tiny", vocab_size=1000, max_seq_len=128, n_layers=4, n_heads=4, n_kv_heads=4, head_dim=32,
                ffn=Mlp(512, "gelu"))
model = GPT(CONFIG, torch.Generator().manual_seed(0))
ids = torch.randint(1000, (8, 128), generator=torch.Generator().manual_seed(1))
with MemoryLedger() as ledger:  # all that is made from here on
    with kept_for_backward(but_not=model.parameters()) as count:
        loss = accumulation.batch_loss(model, ids, ids)
    loss.backward()
optimizer = torch.optim.AdamW(model.parameters())
optimizer.step()
measured = {
    "weights": sum(p.nbytes for p in model.parameters()), "gradients": sum(p.grad.nbytes for p in model.parameters()),
    "moments": sum(s[name].nbytes for s in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")),
    "activations": count["bytes"] - 4 * ids.numel() * 1000,  # without the log-probabilities
}
predicted = memory.training_bytes(CONFIG, 8, 128)
for name, size in measured.items():
    print(f"{name:12s} predicted {predicted[name]:>12,}   measured {size:>12,}   {size / predicted[name]:.2f}")
print("you said", guess_mb, "MB of activations")
assert all(measured[name] == predicted[name] for name in ("weights", "gradients", "moments"))
assert 0.85 < measured["activations"] / predicted["activations"] < 1.15

# %% name="the_worst_moment"
in_flight = predicted["activations"] + predicted["logits"]
print(f"forward and backward hold up to {ledger.peak_bytes:,} bytes; activations and logits make {in_flight:,}")
assert 0.85 < ledger.peak_bytes / in_flight < 1.15
state = sum(memory.state_bytes(7_000_000_000, "bf16").values())
print(f"16 bytes a weight: 7 billion weights are {state / 1e9:.0f} GB before the first activation, in any format")
assert state == sum(memory.state_bytes(7_000_000_000, "fp32").values()) == 112_000_000_000

# %% [markdown]
# The weights, their gradients and both averages are met to the byte; the activations nearly (masks and the statistics
# of norms were left out). In 16 bits minillm's own training keeps 4 bytes a weight more than the 16: it adds
# micro-batches up in float32.
#
# ### Forget and compute again
#
# Activations are numbers that can be computed again. **Activation checkpointing** keeps only the input of each block.
# When the backward pass arrives there, the block runs once more, keeps everything for a moment, and goes backward. It
# is an `autograd.Function` of some twenty lines (`minillm/training/recompute.py`). Dropout must draw the same mask
# again, so the state of the random numbers is kept as well.
#
# **Predict.** What share of a plain step's matrix products does it cost in addition?

# %%
guess_more_work = None

# %% name="checkpointing_keeps_the_gradients"
from minillm.training.recompute import recomputed_blocks

DROPPING = GPT(replace(CONFIG, n_layers=8, dropout=0.1), torch.Generator().manual_seed(2)).train()
kept, work, peaks, found = {}, {}, {}, {}
for again in (False, True):
    torch.manual_seed(0)  # of dropout
    DROPPING.zero_grad()
    with recomputed_blocks(DROPPING, again), MemoryLedger() as ledger:
        with kept_for_backward(but_not=DROPPING.parameters()) as count:
            loss = accumulation.batch_loss(DROPPING, ids, ids)
        loss.backward()
    kept[again], work[again], peaks[again] = count["bytes"], ledger.flops, ledger.peak_bytes
    found[again] = torch.cat([p.grad.flatten() for p in DROPPING.parameters()])
    print(f"{'recomputed' if again else 'plain':10s} kept {kept[again]:>11,} bytes, at the worst moment "
          f"{peaks[again]:>11,}")
assert torch.equal(found[True], found[False]), "to the last bit, dropout included"
assert kept[False] > 6 * kept[True] and peaks[False] > 2 * peaks[True] and 1.2 < work[True] / work[False] < 1.34
print(f"the same gradients to the last bit; {kept[False] / kept[True]:.0f} times less kept, "
      f"{work[True] / work[False] - 1:.0%} more matrix products (you said {guess_more_work})")

# %% [markdown]
# Forward is one part of the work, backward two, and the second forward makes four parts of three. With √L blocks
# between two kept inputs one needs memory for √L inputs and √L blocks, the classic bound; keeping every block's input
# and one whole block is the usual choice.
#
# ## Which method saves what
#
# Every method acts on one of the terms. So measure one step of one GPT again and again, each time with another method.
# What is left after the step is weights, gradients and AdamW's averages (with masters, in 16 bits); what was kept in
# between are activations.

# %% name="one_step_with_a_method"
def bytes_of_a_step(n_pieces=1, again=False, max_norm=None, dtype=torch.float32, trained=""):
    model = GPT(CONFIG, torch.Generator().manual_seed(0)).to(dtype)
    for name, p in model.named_parameters():
        p.requires_grad_(trained in name)
    kept = 0
    for piece in ids.chunk(n_pieces):
        with recomputed_blocks(model, again), kept_for_backward(but_not=model.parameters()) as count:
            loss = accumulation.batch_loss(model, piece, piece) / n_pieces
        loss.backward()
        kept = max(kept, count["bytes"])
    learning = [p for p in model.parameters() if p.requires_grad]
    if max_norm is not None:
        for p, grad in zip(learning, clip_by_norm([p.grad for p in learning], max_norm)[0], strict=True):
            p.grad = grad
    masters = learning if dtype == torch.float32 else [torch.nn.Parameter(p.detach().float()) for p in learning]
    for p, master in zip(learning, masters, strict=True):
        master.grad = p.grad.float()
    optimizer = torch.optim.AdamW(masters)
    optimizer.step()
    moments = sum(s[name].nbytes for s in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq"))
    extra = sum(m.nbytes for m in masters) if dtype != torch.float32 else 0
    return {"weights": sum(p.nbytes for p in model.parameters()), "gradients": sum(p.grad.nbytes for p in learning),
            "optimizer": moments + extra, "activations": kept}

# %% name="what_each_method_saves"
methods = {
    "plain": {}, "gradient clipping": {"max_norm": 1e-3}, "4 micro-batches": {"n_pieces": 4},
    "checkpointing": {"again": True}, "bf16 with masters": {"dtype": torch.bfloat16},
    "only o_proj learns": {"trained": "o_proj"},
}
table = {name: bytes_of_a_step(**settings) for name, settings in methods.items()}
print(f"{'bytes':20s}" + "".join(f"{part:>13s}" for part in table["plain"]))
for name, row in table.items():
    print(f"{name:20s}" + "".join(f"{size:13,}" for size in row.values()))
plain = table["plain"]
assert table["gradient clipping"] == plain
smaller = {name: {part for part in row if row[part] < plain[part]} for name, row in table.items()}
assert smaller["4 micro-batches"] == smaller["checkpointing"] == {"activations"}
assert smaller["bf16 with masters"] == {"weights", "gradients", "activations"}
state = {name: row["weights"] + row["gradients"] + row["optimizer"] for name, row in table.items()}
assert state["bf16 with masters"] == state["plain"] and table["bf16 with masters"]["optimizer"] > plain["optimizer"]
assert plain["activations"] / table["4 micro-batches"]["activations"] > 3.8
assert plain["activations"] / table["checkpointing"]["activations"] > 3
assert state["only o_proj learns"] < 0.5 * state["plain"]

# %% [markdown]
# Read it column by column. Micro-batches and checkpointing change the last one only. 16 bits halve the first two and
# give it back in the third. Training few weights (that is what LoRA does, lesson 13) takes away gradients and averages,
# and leaves most of the activations, because the backward pass still goes through every layer. And gradient clipping?
#
# ## Myth and measurement
#
# "Gradient clipping limits the size of gradients and so reduces memory use." It tempts, because *size* has two
# meanings. A gradient of 0.001 takes the same four bytes as one of 1000. The second line of the table is equal to the
# first, in every column; the peak may even be higher, since the clipped gradients are new tensors:

# %% name="clipping_saves_nothing" tags=["compare"]
model = GPT(CONFIG, torch.Generator().manual_seed(0))
peaks, lengths = {}, {}
for most in (None, 1e-3):
    model.zero_grad()
    with MemoryLedger() as ledger:
        accumulation.batch_loss(model, ids, ids).backward()
        grads = [p.grad for p in model.parameters()]
        grads = grads if most is None else clip_by_norm(grads, most)[0]
    peaks[most] = ledger.peak_bytes
    lengths[most] = torch.cat([grad.flatten() for grad in grads]).norm().item()
assert table["gradient clipping"] == table["plain"] and peaks[1e-3] >= peaks[None]
assert abs(lengths[1e-3] - 1e-3) < 1e-6 and lengths[None] > 0.1
print(f"length of the gradient {lengths[None]:.1f}, clipped {lengths[1e-3]:.3f}")
print("bytes of weights, gradients, averages and activations: the same; the peak is not lower")

# %% [markdown]
# ## Where the time goes
#
# Arithmetic can be counted before a step as well. A matrix of N weights multiplies and adds once for each token on the
# way forward: 2N operations. Backward it does so twice, for the gradient of its input and for its own. So a token costs
# $6N$. Attention comes on top: a query meets T keys and T values, $4\,T D$ operations in each layer, and again three
# times that with the backward pass. (What the mask then hides was computed for nothing, if nobody takes care.)
#
# **Predict.** One step of this GPT with 1,024 tokens: what share of its operations is attention's?

# %%
guess_share = None

# %% name="operations_of_a_step"
n_tokens = ids.numel()
matrices = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2 and "pos_emb" not in name)
of_weights = 6 * matrices * n_tokens
of_attention = 6 * 2 * CONFIG.n_layers * 128 * CONFIG.d_model * n_tokens  # all T keys: the mask comes afterwards
with MemoryLedger() as ledger:
    accumulation.batch_loss(model, ids, ids).backward()
print(f"6 N for each token: {of_weights / 1e9:.2f} billion; attention {of_attention / 1e9:.2f}; counted "
      f"{ledger.flops / 1e9:.2f}")
share = of_attention / (of_weights + of_attention)
longer = 16 * of_attention / (of_weights + 16 * of_attention)
print(f"attention {share:.0%} (you said {guess_share}); in texts of 16 times the length {longer:.0%}")
assert abs(ledger.flops / (of_weights + of_attention) - 1) < 0.01 and 0.1 < share < 0.2

# %% [markdown]
# The famous $6ND$ for N weights and D tokens is this count without attention. It tells what a run must cost. Where its
# seconds go, a clock tells that is stopped before and after each of torch's kernels, in both passes.

# %% name="where_the_time_goes"
from minillm.course.ledger import KernelClock
from minillm.training import loop
from minillm.training.recipe import Recipe
from minillm.training.state import TrainingState

KINDS = {"products": ("mm",), "AdamW": ("adamw",), "softmax, norms, GELU": ("softmax", "norm", "gelu")}
state = TrainingState(GPT(CONFIG, torch.Generator().manual_seed(0)).train(), Recipe(dtype="fp32"))
one_loss = partial(accumulation.batch_loss, state.model)
with state.weights.attached(torch.float32), KernelClock() as clock:
    for _ in range(4):
        loop.training_step(state, one_loss, [(ids, ids)], 1e-3)
seconds = dict.fromkeys([*KINDS, "all the rest"], 0.0)
for kernel, each in clock.seconds.items():
    kind = next((kind for kind, parts in KINDS.items() if any(part in kernel for part in parts)), "all the rest")
    seconds[kind] += each
figure, (axes,) = plots.new_figure(width=6.4, height=2.4)
percent = {kind: 100 * each / sum(seconds.values()) for kind, each in seconds.items()}
plots.bar_chart(axes, percent, "time of a step", "%")
plots.show(figure, alt="Bars: most of a step's time is spent in products of matrices")

# %% [markdown]
# Everything but the products moves numbers about: little arithmetic for many bytes. To be faster one can compute in
# fewer bits: a product does more of them at once, and all else has fewer bytes to move. And one can join small steps to
# the product before them, so that their numbers never travel at all: so do compilers, and so do hand-written kernels.
#
# ### A backward pass by hand
#
# For that, somebody has to write down what autograd does. For a linear layer it is three lines. Let
# $y = x W^\top + b$, and let $g$ be the gradient of the loss by $y$, a row for each token:

# %% name="backward_of_a_linear_layer" tags=["compare"]
generator = torch.Generator().manual_seed(0)
x, w, b, g = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((5, 3), (4, 3), (4,), (5, 4)))
by_hand = {"x": g @ w, "W": g.T @ x, "b": g.sum(dim=0)}
leaves = [part.requires_grad_() for part in (x, w, b)]
by_autograd = torch.autograd.grad(leaves[0] @ leaves[1].T + leaves[2], leaves, g)
for (name, ours), theirs in zip(by_hand.items(), by_autograd, strict=True):
    assert torch.allclose(ours, theirs)
    print(f"gradient of {name}: {tuple(ours.shape)}, as autograd has it")

# %% [markdown]
# The first line sends the gradient on, the second and third are for the optimizer: one product forward, two backward.
# A whole block, written out in this way, is `minillm/training/fast/block_pass.py`: two functions of some forty lines,
# over parts in C++ that compute in bf16 and add up in float32. Is it right? Hold it against autograd in float64, with
# autograd in bf16 beside it:

# %% name="a_block_by_hand"
import copy

from minillm.training.fast import blocks

small = GPT(replace(CONFIG, n_layers=2), torch.Generator().manual_seed(3)).bfloat16().double().train()
WHY_NOT = blocks.why_not(small, "bf16", torch.device("cpu"))


def block_gradients(model, by_kernel):
    added = {p: torch.zeros(p.shape) for p in model.parameters()}
    with blocks.kernel_blocks(model, added.__getitem__, active=by_kernel):
        accumulation.batch_loss(model, ids, ids).backward()
    return torch.cat([(added[p] if p.grad is None else p.grad).double().flatten() for p in model.blocks.parameters()])


if WHY_NOT is not None:
    print("no kernel here:", WHY_NOT)
else:
    exact = block_gradients(copy.deepcopy(small), False)
    for name, by_kernel in (("autograd in bf16", False), ("by hand in bf16", True)):
        error = (block_gradients(copy.deepcopy(small).bfloat16(), by_kernel) - exact).norm() / exact.norm()
        print(f"{name}: gradients {error:.2%} off")
        assert error < 0.03

# %% [markdown]
# Both are off by what bf16 rounds away. And is it faster? Where there is a compiler, and a processor with instructions
# for bf16, `python -m minillm train` computes by it (`--no-kernel` does not). On your machine:

# %% name="the_same_steps_by_hand"
import time

from minillm.training.callbacks import History


def timed_steps(kernel, n_steps=6):
    recipe, history = Recipe(dtype="bf16", kernel=kernel, warmup_steps=2), History()
    model, start = GPT(CONFIG, torch.Generator().manual_seed(0)), time.perf_counter()
    loop.train(model, [(ids, ids)] * n_steps, recipe, steps=n_steps, callbacks=[history])
    return history.steps[-1]["loss"], n_steps * n_tokens / (time.perf_counter() - start)


runs = {False: timed_steps(False)} | ({} if WHY_NOT else {True: timed_steps(True)})
for kernel, (loss, speed) in runs.items():
    print(f"{'our kernel' if kernel else 'PyTorch, bf16'}: loss {loss:.3f} after 6 steps, {speed:,.0f} tokens a second")
assert all(abs(loss - runs[False][0]) < 0.05 for loss, _ in runs.values())

# %% [markdown]
# `python -m minillm bench train` measures it with care: against nanoGPT's arithmetic, in turns, with the losses beside,
# and with what the largest product of your machine reaches, which nobody can pass.

# %% [markdown]
# ## Many ranks
#
# One device is never enough. The memory that you counted above, 16 bytes a weight, makes 112 GB for 7 billion weights,
# before the first activation. So the work is shared out to many **ranks**. A rank is a process with a memory of its
# own; on a cluster each has a GPU. Ranks share nothing. All they can do is send each other tensors, and that is slow,
# so we count every byte.
#
# There are four things that can be split, and every system you will meet is a mixture of them:
#
# | | what is split | what is sent |
# |---|---|---|
# | data parallelism | the rows of the batch | gradients |
# | ZeRO, FSDP | also optimizer state, gradients, weights | gradients and weights |
# | tensor parallelism | each matrix | activations, in every layer |
# | pipeline parallelism | the stack of layers | activations, at the seams |
#
# Below, ranks run as *threads* where your own functions take part, since threads can see this notebook, and as
# *processes* where it has to be real. Both go through the same `Wire`, which counts what is sent.
#
# ### Adding up
#
# The one operation that you must know: the **all-reduce**. Every rank has a vector, and every rank wants the sum.
# Sending everything to everybody would cost each rank n − 1 vectors. A ring does better. Cut the vector into n shares.
# Each share of the sum starts at one rank and travels round; everybody adds what they have; it arrives complete at its
# owner. That is a **reduce-scatter**. Then the finished shares travel round once more: an **all-gather**.

# %% name="sums_that_travel"
from minillm.course.scenes import parallel_pictures

picture = parallel_pictures.reduce_scatter_picture(4)
plots.show(picture, alt="Four ranks in columns, steps in rows: each share of the sum moves one rank on and gains a "
           "summand, until rank r holds share r of all four")

# %% [markdown]
# **Predict.** A gradient of 1.2 million bytes. How many bytes does each rank send for an all-reduce with 2 ranks, and
# how many with 12?

# %%
guess_2_ranks, guess_12_ranks = None, None

# %% name="an_all_reduce_costs_two" tags=["compare"]
from minillm.training import collectives
from minillm.training.wires import run_ranks


def add_up(wire):
    vector = torch.full((300_000,), float(wire.rank))
    return collectives.all_reduce(vector, wire), wire.sent.total()


sent_by_each = {}
for n_ranks in (2, 4, 12):
    results = run_ranks(add_up, n_ranks)
    assert all((total == sum(range(n_ranks))).all() for total, _ in results)
    (sent_by_each[n_ranks],) = {sent for _, sent in results}
    print(f"{n_ranks:2d} ranks: each sends {sent_by_each[n_ranks]:,} bytes")
assert all(sent == 1_200_000 * 2 * (n - 1) // n for n, sent in sent_by_each.items())
print("you said", guess_2_ranks, "and", guess_12_ranks)

# %% [markdown]
# $2\,(n-1)/n$ times the vector: never more than twice, however many ranks there are. That is why data parallelism
# scales to thousands of them.
#
# ## Data parallelism
#
# Every rank has the whole model and some rows of the batch. Each finds the gradient of its rows; an all-reduce adds the
# gradients up; every rank takes the same step. What could go wrong? What went wrong with gradient accumulation: ranks
# have unequally many targets. Here are eight stories on four ranks, as in fine-tuning, where only an answer counts and
# some answers are short.

# %% name="answers_and_questions"
from minillm.text.batches import story_batch
from minillm.text.stories import StoryLanguage
from minillm.training import data_parallel

language = StoryLanguage()
SMALL = preset("tiny", d_model=64, n_layers=4, n_heads=4, n_kv_heads=4, head_dim=16, ffn=Mlp(256), tie_embeddings=False,
               init=Init(0.1, 0.1, "scaled"), vocab_size=language.tokenizer.vocab_size, max_seq_len=language.max_len)


def answers_only(seed, n_rows=8):
    """Stories of which the last words count: in some rows 2 of them, in others 32."""
    token_ids, targets = story_batch(language, n_rows, torch.Generator().manual_seed(seed))
    from_the_end = (targets != -100).flip(-1).cumsum(-1).flip(-1)
    n_counted = torch.tensor([2, 32, 8, 24])[torch.arange(n_rows) % 4]
    return token_ids, targets.masked_fill(from_the_end > n_counted[:, None], -100)


def ranks_gradient(wire, weights, batch):
    replica = GPT(SMALL)
    replica.load_state_dict(weights)
    rows = data_parallel.own_rows(*batch, wire.rank, wire.n_ranks)
    own_mean = data_parallel.flat_gradient(replica, F.cross_entropy(replica(rows[0]).flatten(0, 1), rows[1].flatten()))
    return data_parallel.data_parallel_gradient(replica, *rows, wire)[1], own_mean


# %% name="ranks_add_up_to_the_batch" tags=["compare"]
for seed in range(3):
    replica = GPT(SMALL, torch.Generator().manual_seed(seed))
    batch = answers_only(seed)
    loss = F.cross_entropy(replica(batch[0]).flatten(0, 1), batch[1].flatten())
    whole = data_parallel.flat_gradient(replica, loss)
    found = run_ranks(ranks_gradient, 4, replica.state_dict(), batch)
    weighed, means = found[0][0], torch.stack([own for _, own in found]).mean(0)
    off = {"weighed by targets": weighed, "mean of the means": means}
    off = {name: ((gradient - whole).norm() / whole.norm()).item() for name, gradient in off.items()}
    assert off["weighed by targets"] < 1e-5 and off["mean of the means"] > 0.2
    assert all(torch.equal(gradient, weighed) for gradient, _ in found), "the same bits on every rank"
print("weighed by targets: the gradient of the whole batch to 1e-5, the same bits on all four ranks")
print("mean of the means: more than 20 % off, in three batches of three")

# %% [markdown]
# Nothing complains when you take the mean of the means: the loss falls, only not the one you wrote down. DDP averages
# over ranks, so a training loop on top of it has to put the weights in, as this course's does.
#
# ### "Distributed training reduces the memory of each device"
#
# **Predict.** A rank in a group of 4 keeps what share of the bytes for weights, gradients and optimizer that a rank
# training alone keeps?

# %%
guess_share_kept = None

# %% name="more_ranks_same_memory" tags=["compare"]
from minillm.training import zero, zero_run

batch, kept_by_rank, saved_by_rank = answers_only(0), {}, {}
for n_ranks in (1, 2, 4):
    report = run_ranks(zero_run.train_with_zero, n_ranks, SMALL, replica.state_dict(), [batch], 0, 1e-3)[0]
    kept_by_rank[n_ranks] = sum(report.kept.values())
    with kept_for_backward(but_not=list(replica.parameters())) as activations:
        graph = replica(data_parallel.own_rows(*batch, 0, n_ranks)[0])
    saved_by_rank[n_ranks] = activations["bytes"]
    print(f"{n_ranks} ranks: each keeps {kept_by_rank[n_ranks]:,} bytes of weights, gradients and averages")
n_weights = sum(parameter.numel() for parameter in replica.parameters())
assert set(kept_by_rank.values()) == {16 * n_weights}, "4 + 4 + 8 bytes a weight, on every rank"
fewer = saved_by_rank[1] / saved_by_rank[4]
assert abs(fewer - 4) < 0.2
print(f"that is 16 bytes a weight, always; for its rows of the batch, each of 4 ranks keeps 1/{fewer:.0f} of the "
      "activations")
print("you said", guess_share_kept)

# %% [markdown]
# All of them. Plain data parallelism makes copies: if the model does not fit on one device, it does not fit on a
# thousand. What falls is the activations, because each rank has fewer rows, and that you could have had on one device
# with smaller micro-batches. What reduces memory is *sharding*.
#
# ## ZeRO
#
# Look at what all ranks do after the all-reduce: the same AdamW step, on the same weights, with the same averages. All
# but one of them do it for nothing. So let each rank do a share of it.
#
# | stage | a rank keeps whole | of which it keeps a share |
# |---|---|---|
# | 0 (data parallel) | weights, gradients, optimizer state | |
# | 1 | weights, gradients | optimizer state |
# | 2 | weights | gradients, optimizer state |
# | 3 (FSDP) | | weights, gradients, optimizer state |
#
# The trick of stage 1 costs nothing. An all-reduce is a reduce-scatter and an all-gather; put the optimizer *between*
# the two, and gather new weights in place of gradients.

# %% exercise="training.zero.zero1_shard"

# %% [markdown]
# ### Use it: does it train the same model?
#
# Four ranks, four steps, your function, against torch's AdamW in one place.

# %% name="your_shard_on_four_ranks" tags=["compare"]
batches = [answers_only(seed) for seed in range(4)]
replica = GPT(SMALL, torch.Generator().manual_seed(0))
start = {name: weight.clone() for name, weight in replica.state_dict().items()}
with mine.active():
    reports = run_ranks(zero_run.train_with_zero, 4, SMALL, start, batches, 1, 1e-3)
optimizer = torch.optim.AdamW(replica.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
for token_ids, targets in batches:
    loss = F.cross_entropy(replica(token_ids).flatten(0, 1), targets.flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
in_one_place = zero.flat_weights(list(replica.parameters()))
difference = max((report.weights - in_one_place).abs().max().item() for report in reports)
assert difference < 1e-4 and reports[0].kept["optimizer"] == 8 * n_weights // 4
print("after 4 steps all weights agree to 1e-4; a rank keeps a quarter of the averages:",
      f"{reports[0].kept['optimizer']:,} of {8 * n_weights:,} bytes")
mine.table()

# %% [markdown]
# ### All stages, in two real processes
#
# Stage 2 gives each gradient away as soon as the backward pass has found it. Stage 3 keeps no whole weights either:
# before a block computes, its weights are gathered; after it they are forgotten; the backward pass gathers them again.
#
# **Predict.** Which stages send more bytes than plain data parallelism, and how many times as many?

# %%
guess_traffic = {1: None, 2: None, 3: None}

# %% name="zero_on_two_processes" tags=["compare"]
runs = run_ranks(zero_run.all_stages, 2, SMALL, start, batches[:3], 1e-3, processes=True)
plain = runs[0][0]
traffic = {stage: sum(report.sent[name] for name in ("gradients", "weights") if name in report.sent)
           for stage, report in runs[0].items()}
print(f"{'stage':6s}{'weights':>10s}{'gradients':>11s}{'optimizer':>11s}   bytes a weight   sent, stage 0 = 1")
for stage, report in runs[0].items():
    kept = report.kept
    foretold = zero.zero_bytes(n_weights, 2, stage, 4, 4, 8)
    assert kept == {name: foretold[name] for name in kept}, "to the byte"
    assert (report.weights - plain.weights).abs().max() < 1e-4
    print(f"{stage:<6d}{kept['weights']:10,}{kept['gradients']:11,}{kept['optimizer']:11,}"
          f"{sum(kept.values()) / n_weights:12.0f}{traffic[stage] / traffic[0]:18.2f}")
assert torch.equal(runs[0][1].weights, plain.weights), "stage 1 and data parallelism: the same to the last bit"
assert traffic[1] == traffic[2] == traffic[0] and traffic[3] == 1.5 * traffic[0]
paper = [zero.zero_bytes(7_500_000_000, 64, stage)["total"] / 1e9 for stage in zero.STAGES]
assert [round(gigabytes, 1) for gigabytes in paper] == [120.0, 31.4, 16.6, 1.9]
print("7.5 billion weights on 64 ranks, in GB a rank:", [round(gigabytes, 1) for gigabytes in paper])
print("you said", guess_traffic)

# %% [markdown]
# The same model, the same bytes sent in stages 1 and 2, and half as many again in stage 3. The last line is figure 1 of
# the paper, from the formula you have just checked: mixed precision has another 16 bytes a weight (2 for the weight, 2
# for the gradient, 12 for a float32 master and the two averages), so stage 1 already removes most of it.

# %% name="what_a_rank_keeps"
names = ("data parallel", "ZeRO 1", "ZeRO 2", "ZeRO 3")
kept = {name: {part: size / 1e9 for part, size in zero.zero_bytes(7_500_000_000, 64, stage).items()}
        for stage, name in enumerate(names)}
picture = parallel_pictures.kept_picture(kept, "GB a rank, 7.5 billion weights, 64 ranks", (80, "80 GB"))
plots.show(picture, alt="Bars of bytes a rank: 120 GB in data parallelism, 31 with ZeRO 1, 17 with ZeRO 2, 2 with ZeRO "
           "3; only the first is above 80 GB")

# %% [markdown]
# Two things are not in the picture. Activations: ZeRO leaves them alone, they need checkpointing or another split. And
# the weights that stage 3 has gathered at a moment:

# %% name="gathered_for_a_moment" tags=["compare"]
largest = runs[0][3].most_gathered
assert largest == 4 * sum(parameter.numel() for parameter in replica.blocks[0].parameters())
assert largest < runs[0][0].kept["weights"] / 4
print(f"stage 3 holds {largest:,} bytes of whole weights at a time: one block of {SMALL.n_layers}")

# %% [markdown]
# ### What DeepSpeed is
#
# ZeRO is the idea; DeepSpeed is the library of its authors. Its configuration names the stage that you have built. On
# top it adds: *offload*, which moves gradients, optimizer state and the step itself to the CPU (ZeRO-Offload), or all
# three parts to SSDs (ZeRO-Infinity); buckets, so that gradients are sent while the backward pass goes on; partitioned
# activations; pipelines; fused optimizers; a launcher and sharded checkpoints. torch has stage 3 as FSDP
# (`fully_shard`). `torchrun ... -m minillm train --parallel fsdp` uses that one.
#
# So "what does DeepSpeed save?" has an exact answer: 12 of 16 bytes a weight, divided by the number of ranks, in stage
# 1; 14 in stage 2; all 16 in stage 3, for half as much traffic again.
#
# ## Tensor parallelism
#
# Now split the matrices themselves. An MLP has a wide hidden layer. Give each rank some of its features: the *rows* of
# the first matrix that make them, and the *columns* of the second that read them. The activation works on each feature
# alone, so nobody has to ask anybody, until the end: each rank has a summand of the output.

# %% name="a_split_mlp"
plots.show(parallel_pictures.split_mlp_picture(2), alt="x goes into a matrix split by rows, blue and yellow; the "
           "hidden features are blue and yellow; the second matrix is split by columns; two summands are added")

# %% exercise="training.tensor_parallel.mlp_shard"

# %% name="your_part_of_an_mlp" tags=["compare"]
from minillm.training import tensor_parallel

replica = GPT(SMALL, torch.Generator().manual_seed(1))
mlp, d_model = replica.blocks[0].ffn, SMALL.d_model
generator = torch.Generator().manual_seed(2)
x, up_bias, down_bias = (torch.randn(*shape, generator=generator) for shape in ((5, d_model), (256,), (d_model,)))


def part_of_mlp(wire):
    weights = mlp.up_proj.weight.detach(), up_bias, mlp.down_proj.weight.detach(), down_bias
    rest = wire.rank, wire.n_ranks, mlp.act, lambda part: collectives.all_reduce(part, wire)
    return tensor_parallel.mlp_shard(x, *weights, *rest), wire.sent.total()


with torch.no_grad(), mine.active():
    parts = run_ranks(part_of_mlp, 4)
    want = F.linear(mlp.act(F.linear(x, mlp.up_proj.weight, up_bias)), mlp.down_proj.weight, down_bias)
assert all((out - want).abs().max() < 1e-5 for out, _ in parts)
assert {sent for _, sent in parts} == {2 * 3 * x.nbytes // 4}
print("four ranks with 64 of 256 hidden features each give the whole MLP, with one all-reduce of the output")

# %% [markdown]
# Attention splits in the same way, by heads: a head's queries, keys and values are rows of three matrices, and its
# output goes through columns of `o_proj`. So a block takes two all-reduces forward and two backward, each as large as
# the residual stream. That is much, and it happens in every layer, with everybody waiting. Tensor parallelism stays
# inside one machine, where links are fast.
#
# ## Pipeline parallelism
#
# Or split the stack: the first blocks here, the last ones there. Only the residual stream passes, at one seam. But then
# the second rank waits for the first, and in the backward pass the first for the second. The remedy is to cut the batch
# into micro-batches.
#
# **Predict.** Four stages. Which share of the time do they wait with 1 micro-batch, and with 32?

# %%
guess_bubble_1, guess_bubble_32 = None, None

# %% name="the_bubble" tags=["compare"]
from minillm.training import pipeline_schedule as plan

tables = {}
for n_micro in (1, 4, 32):
    tables[f"GPipe, {n_micro} micro-batches"] = gpipe = plan.timetable([plan.gpipe_order(n_micro)] * 4)
    tables[f"1F1B, {n_micro} micro-batches"] = other = plan.timetable(
        [plan.one_f_one_b_order(stage, 4, n_micro) for stage in range(4)])
    bubble = plan.bubble_share(4, n_micro)
    assert abs(plan.idle_share(gpipe) - bubble) < 1e-12 and abs(plan.idle_share(other) - bubble) < 1e-12
    print(f"{n_micro:2d} micro-batches: {bubble:.1%} of the time is waiting; the first stage keeps "
          f"{plan.most_in_flight(gpipe[0])} of them with GPipe, {plan.most_in_flight(other[0])} with 1F1B")
print("you said", guess_bubble_1, "and", guess_bubble_32)
shown = {name: tables[name] for name in ("GPipe, 4 micro-batches", "1F1B, 4 micro-batches")}
plots.show(parallel_pictures.timetable_picture(shown), alt="Two timetables of four stages: with GPipe all forward "
           "passes come before all backward passes, with 1F1B they take turns; both wait equally long")

# %% [markdown]
# $(p-1)/(m+p-1)$ for $p$ stages and $m$ micro-batches. 1F1B waits as long; what it saves is memory, because a
# micro-batch's activations may go as soon as its backward pass is done.
#
# ### Both, in two real processes
#
# The same GPT, the same batch: once every matrix is split, once the stack is.

# %% name="two_ways_to_split_a_model" tags=["compare"]
from minillm.training import pipeline, split_gpt
from minillm.training.wires import run_in_turn

token_ids, targets = batch = answers_only(0)
loss = F.cross_entropy(replica(token_ids).flatten(0, 1), targets.flatten())
wanted = dict(zip(dict(replica.named_parameters()), torch.autograd.grad(loss, list(replica.parameters())), strict=True))
work = (SMALL, replica.state_dict(), *batch)
both = (split_gpt.split_forward_backward, work), (pipeline.pipeline_gradients, (*work, 4))
split, staged = zip(*run_ranks(run_in_turn, 2, *both, processes=True), strict=True)
joined = {"tensor": split_gpt.join_split([rank.gradients for rank in split]),
          "pipeline": staged[0].gradients | staged[1].gradients}
sent = {"tensor": sum(split[0].sent.values()), "pipeline": staged[0].sent["activations"]}
held = {"tensor": split[0].n_weights, "pipeline": sum(grad.numel() for grad in staged[0].gradients.values())}
for name, gradients in joined.items():
    off = max((gradients[key] - wanted[key]).abs().max().item() for key in wanted)
    assert off < 1e-4 and set(gradients) == set(wanted) and held[name] < 0.6 * n_weights
    print(f"{name:9s} gradients of the whole model to 1e-4; rank 0 has {held[name]:,} of {n_weights:,} weights "
          f"and sends {sent[name]:,} bytes")
stream = token_ids.numel() * SMALL.d_model * 4
assert sent == {"tensor": 4 * SMALL.n_layers * stream, "pipeline": stream}
bubbles = [plan.bubble_share(4, n_micro) for n_micro in (4, 32)]
assert [round(bubble, 2) for bubble in bubbles] == [0.43, 0.09]
print("the pipeline's bubble with 4 stages:", [f"{bubble:.1%}" for bubble in bubbles], "for 4 and 32 micro-batches")

# %% [markdown]
# Tensor parallelism sends the residual stream four times a block; the pipeline once a seam. In exchange, the pipeline
# waits. So large trainings nest them: tensor parallelism among the GPUs of a machine, pipelines between machines, and
# data parallelism with ZeRO around both. Which one first? If the model fits, data parallelism. If only the optimizer
# does not fit, ZeRO 1. If weights do not fit either, ZeRO 3 (FSDP). If one layer's activations are too large, or links
# inside the machine are fast, tensor parallelism. The pipeline when machines are many and links between them slow.
#
# ### On GPUs
#
# gloo talks through the network interface, NCCL from GPU to GPU. Here both add up the same vector.

# %% name="nccl_all_reduce_on_gpus"
from minillm.training.processes import run_processes

if torch.cuda.device_count() < 2:
    print(f"skipped: NCCL connects GPUs, and this needs two; here there are {torch.cuda.device_count()}")
else:
    results = run_processes(data_parallel.nccl_all_reduce, 2, 1_000_000)
    assert all(agree for agree, _ in results)
    print("two GPUs: NCCL and our ring give the same sum; our ring sent", results[0][1], "bytes a rank")

# %% [markdown]
# ## Explore
#
# The same arithmetic for models that do not fit on this machine. Find out what it takes to get llama-7b into 24 GiB on
# one device, and why it fails; then take eight devices and ZeRO. Which method matters for GPT-2's
# vocabulary and a micro-batch of 64?

# %% name="calculator"
from minillm.course.scenes.memory_calculator import calculator_controls, calculator_picture
from minillm.course.widgets import Explorer

Explorer(
    calculator_picture,
    "GPT-2 small with eight sequences of 1,024 tokens: 15.5 GiB in plain float32, 7 GiB in bf16 with checkpointing",
    **calculator_controls(),
)

# %% [markdown]
# ## On one GPU
#
# Everything above holds there too; what changes is who counts. On a GPU torch's allocator knows the worst moment of a
# step, and 16 bits have units of their own. Where there is none, this cell says so and goes on.

# %% name="one_step_on_a_gpu"
if not torch.cuda.is_available():
    print("skipped: there is no GPU here that torch can use")
else:
    device = torch.device("cuda")
    for again in (False, True):
        on_gpu = GPT(replace(CONFIG, d_model=512, head_dim=128, ffn=Mlp(2048, "gelu"))).to(device)
        on_device = ids.to(device)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with recomputed_blocks(on_gpu, again), torch.autocast("cuda", torch.float16):
            loss = accumulation.batch_loss(on_gpu, on_device, on_device)
        torch.amp.GradScaler("cuda").scale(loss).backward()
        taken = torch.cuda.max_memory_allocated() - before
        print(f"{'recomputed' if again else 'plain':10s} gradients and activations took {taken:,} bytes")
        assert all(p.grad.is_cuda and p.grad.dtype == torch.float32 for p in on_gpu.parameters())

# %% [markdown]
# ## A run of your own
#
# Six of your functions are what a training loop is made of. Here the engine of this course trains a GPT with them: two
# micro-batches a step, in fp16 with a loss scale, AdamW on float32 masters, cosine. What you wrote for many ranks you
# have used above.

# %% name="a_run_of_your_own" tags=["compare"]
recipe = Recipe(learning_rate=6e-3, schedule="cosine", warmup_steps=5, accumulation=2, dtype="fp16")
model, told = GPT(harness.BASE, torch.Generator().manual_seed(7)), []


class LossBook:
    def on_step(self, info):
        told.append(info["loss"])


with mine.active():
    state = loop.train(model, harness.text_batches(7, 32, 8), recipe, steps=30, callbacks=[LossBook()])
print(f"{state.step} steps, {state.tokens:,} targets")
assert state.step == 30 and state.tokens == 30 * 2 * 8 * 32 and sum(told[-5:]) / 5 < told[0] - 2
mine.table()

# %% [markdown]
# ## When does an ability emerge?
#
# "Large models suddenly can what small ones cannot." Part of that is how one counts. Say that a model gets one answer
# right with probability p. The task wants 20 answers, all of them right. If they are independent, that is $p^{20}$. By
# hand: for p = 0.5 one in a million, for p = 0.9 one in eight, for p = 0.99 four in five.
#
# **Predict.** Models of growing width learn a made-up table of 576 facts (an operation on 24 symbols). The share of
# facts that they know grows smoothly with the width. From which share on do they get 20 facts in a row right more often
# than not?

# %%
guess_share = None

# %% name="facts_by_width"
SIZE = 24


def facts_known(width, seed, steps=200):
    generator = torch.Generator().manual_seed(seed)
    table = torch.randint(SIZE, (SIZE, SIZE), generator=generator)
    left, right, out = (torch.randn(SIZE, width, generator=generator).requires_grad_() for _ in range(3))
    optimizer = torch.optim.Adam([left, right, out], 0.03)
    for _ in range(steps):
        logits = torch.relu(left[:, None] + right) @ out.T
        loss = F.cross_entropy(logits.flatten(0, 1), table.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    knows = (logits.argmax(-1) == table).flatten()
    exams = knows[torch.randint(SIZE**2, (2000, 20), generator=generator)]  # 20 facts drawn at random
    return loss.item(), knows.double().mean().item(), exams.all(-1).double().mean().item()


WIDTHS = (4, 8, 12, 16, 20, 24, 28, 32, 48)
by_width = {width: torch.tensor([facts_known(width, seed) for seed in range(2)]).T for width in WIDTHS}

# %% name="sudden_by_the_metric" tags=["compare"]
for share in (0.5, 0.7, 0.8, 0.9, 0.95, 0.99):
    print(f"p = {share:4}: p to the 20th = {share**20:.4f}")
single = {width: measured[1].mean().item() for width, measured in by_width.items()}
exact = {width: measured[2].mean().item() for width, measured in by_width.items()}
for _, shares, exams in by_width.values():
    assert ((shares**20 - exams).abs() < 0.06).all(), "20 in a row is p to the 20th"
steps_up = [single[b] - single[a] for a, b in zip(WIDTHS, WIDTHS[1:], strict=False)]
jumps = [exact[b] - exact[a] for a, b in zip(WIDTHS, WIDTHS[1:], strict=False)]
assert max(steps_up) < 0.3 and exact[20] < 0.02 and single[20] > 0.5 and exact[48] > 0.95 and max(jumps) > 0.3
print(f"width 20 knows more than half of the facts and passes {exact[20]:.0%} of the exams; you said {guess_share}, "
      f"and it is 0.5 to the power of 1/20: {0.5 ** (1 / 20):.3f}")
figure, panels = plots.new_figure(2, width=9.0, height=3.1)
curves = {"one fact": (WIDTHS, list(single.values())), "20 in a row": (WIDTHS, list(exact.values()))}
plots.line_chart(panels[0], curves, "Share that is right", "width of the model")
plots.line_chart(panels[1], {"loss": (WIDTHS, [m[0].mean().item() for m in by_width.values()])},
                 "The same models by their loss", "width of the model", "nats a fact")
plots.show(figure, alt="Left: single facts rise smoothly with width, 20 in a row stay near zero up to width 24 and "
           "jump to nearly 1. Right: the loss falls smoothly")

# %% [markdown]
# Nothing sudden happens to the models: their loss falls smoothly. The exam makes a jump of it (Schaeffer et al. 2023).
# That is not the whole story. Tasks of several steps really need all of them, which is composition and no artefact; and
# abilities have been found to appear at a certain loss, whatever the size (Du et al. 2024). So when you read
# "emergent", ask for the curve under a smooth measure. What is *not* a cause: pretraining, data or fine-tuning as such.
# They explain why models are good, not why a curve would be sudden.
#
# ## And the data
#
# One question of this corner is proved in another notebook: whether reading the same tokens again hurts. Lesson 01
# trains on the same few stories again and again and measures what happens to new ones.

# %% [markdown]
# ## Interview corner
#
# Answer aloud before you unfold. Each answer names the cell that proves it.

# %% [markdown] interview="08"

# %% [markdown]
# ## Remember
#
# 1. A step is a mean over *counted targets*, whatever it is cut into: micro-batches, ranks, stages. The mean of the
#    means is the bug that everybody has written once.
# 2. State is 16 bytes a weight, in any format; only sharding and training fewer weights make it less. Activations grow
#    with the batch; micro-batches and checkpointing make them less. Clipping and copies on more devices save nothing.
# 3. AdamW moves every weight by about one rate. It is robust, and it hides bugs. In 16 bits: sums in float32, masters
#    in float32, and for fp16 a scale that is taken out before anything looks at the gradients.
#
# **Where next.** Lesson 09 lets the trained model write, lesson 10 makes that fast. Lesson 13 trains few weights, and
# lesson 11 goes below 16 bits.
