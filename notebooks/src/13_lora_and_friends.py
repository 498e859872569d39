# %% [markdown]
# # 13 LoRA and friends
#
# A model that took more computing than you will ever pay for is to learn something of yours: a tone, a task, the words
# of your trade. Must all of its numbers move? In this lesson you look at what training really changes in a model, and
# find that a thin part of it does nearly all. Then you build what follows from it: LoRA, in three short functions,
# QLoRA, and the other ways of steering a frozen model by a few numbers of its own, prompts, prefixes, adapters. One
# table compares them all. At the end a real model learns a new manner from forty short talks, and unlearns it at the
# turn of a switch.
#
# | | |
# |---|---|
# | **You need** | lessons 02 (attention) and 07 (the model); helpful: 08 (training), 10 (cache), 11 (NF4) |
# | **Time** | an hour and a quarter for the seven exercises, two hours for the rest |
# | **Runs on** | any CPU with 4 GB; the cells take a minute and a half: many small models are trained, and a real one |
# | **Weights** | SmolLM2, from `python -m minillm weights`; without them those cells say so and the rest runs |
#
# **Sources.** Hu et al. 2021 (LoRA), sections 4.1 and 7.2; Kalajdzievski 2023 (rsLoRA); Dettmers et al. 2023 (QLoRA),
# section 3; Houlsby et al. 2019 (adapters), section 2.1; He et al. 2022 (a unified view), section 3; Lester et al. 2021
# (prompt tuning), section 2; Li and Liang 2021 (prefix tuning), section 4; Liu et al. 2021 (P-tuning) and 2022
# (P-tuning v2), section 3 of both; Biderman et al. 2024 (LoRA Learns Less and Forgets Less); Rajbhandari et al. 2020
# (ZeRO), section 3.1; Eckart and Young 1936.
#
# An exercise is three cells: the task with folded hints, a cell for your function, and a check that tells you which
# mistake you made. Until yours is right, the lesson goes on with the course's own.

# %% [markdown]
# ## Sixteen numbers, changed by eight

# %% name="two_thin_matrices"
import torch
import torch.nn.functional as F

from minillm.course import check, hint, mine, plots, reset, solution  # noqa: F401
from minillm.course.scenes import tuning_pictures as pictures

torch.set_num_threads(1)  # most models here are small: a second thread would only wait for the first
weight = torch.tensor([[1.0, 2, 0, -1], [0, 3, 1, 1], [2, 0, -2, 1], [-1, 1, 0, 2]])
lora_b, lora_a = torch.tensor([[1.0], [0], [-2], [1]]), torch.tensor([[0.5, 0, 1, -1]])
plots.show(pictures.factor_picture(weight, lora_b, lora_a), alt="A frozen matrix of 4 by 4, plus a column B times a "
           "row A, which are trained, gives a changed matrix of 4 by 4")

# %% [markdown]
# Blue is frozen, orange is trained. Each row of the change is the row A, times one number of B: the first row is
# changed by A, the second not at all, the third by −2 A. A matrix all of whose rows are multiples of one row has
# **rank** 1 (lesson 00). With two such pairs, B of 4 × 2 and A of 2 × 4, the change has rank 2, and so on. That is all
# there is to the form of **LoRA**, low-rank adaptation.
#
# The changed matrix need not even be written down. Take x = (2, 0, 1, 0). W x = (2, 1, 2, −2). A x is one number, 0.5 ·
# 2 + 1 · 1 = 2, and B times 2 is (2, 0, −4, 2). The sum is (4, 1, −2, 0).

# %% name="by_hand" tags=["compare"]
x = torch.tensor([2.0, 0, 1, 0])
beside = weight @ x + lora_b @ (lora_a @ x)
assert beside.tolist() == [4, 1, -2, 0] and torch.equal(beside, (weight + lora_b @ lora_a) @ x)
assert torch.linalg.matrix_rank(lora_b @ lora_a) == 1 and torch.linalg.matrix_rank(weight + lora_b @ lora_a) == 4
print("W x + B (A x) =", beside.tolist(), "= (W + B A) x")
for d, rank in ((4, 1), (512, 8), (4096, 8)):
    print(f"{d} x {d}, rank {rank}: {2 * rank * d:,} numbers for a change of {d * d:,}, {2 * rank / d:.1%}")

# %% [markdown]
# In a small matrix little is gained. In one of 4096 × 4096, a rank of 8 is four numbers in a thousand. The question is
# what can be said with them.

# %% [markdown]
# ## Going on with training
#
# First without any thrift. Here are three small GPTs (three seeds) that have read Python's documentation, letter by
# letter. They go on, with all their weights, on the stories of this course. Beside them, three fresh models that read
# nothing but the stories, for as many steps.
#
# **Predict.** Who is less surprised by unseen stories, the model that goes on or the fresh one? And what has become of
# the documentation: is it as cheap as before, a little dearer, or much dearer?

# %%
guess_who, guess_documentation = "?", "?"

# %% name="general_models"
from tqdm.auto import tqdm

from minillm.bench import domains, tuned
from minillm.bench.domains import GENERAL, STORIES
from minillm.bench.variants import adaptation

SEEDS, N_STEPS = (0, 1, 2), 60
N_READ = {0: adaptation.GENERAL_STEPS, 1: 100, 2: 100}  # the first has read longest: the table below stands on it
bases = [adaptation.base_model(seed, N_READ[seed]) for seed in tqdm(SEEDS, desc="general models")]


def on_stories(model, learning_rate, seed=0, steps=N_STEPS):
    tuned.learn(model, domains.training_text(STORIES, seed=seed), seed, learning_rate, steps)
    return model

# %% name="going_on_and_forgetting"
went_on = [on_stories(tuned.unfrozen(base), domains.SPECIAL_RATE, seed) for seed, base in enumerate(bases)]
fresh = [on_stories(domains.fresh_model(seed), domains.GENERAL_RATE, seed) for seed in SEEDS]
costs = {name: [domains.costs_by_text(model) for model in models]
         for name, models in (("before", bases), ("went on", went_on), ("fresh", fresh))}
for name, by_seed in costs.items():
    for text in (STORIES, GENERAL):
        print(f"{name:9s}{text:15s}", *(f"{cost[text]:.2f}" for cost in by_seed), "nats a character")
for before, after, alone in zip(*costs.values(), strict=True):
    assert after[STORIES] < alone[STORIES] - 0.02 < before[STORIES] - 0.5
    assert after[GENERAL] > before[GENERAL] + 0.5
print("you said", guess_who, "and", guess_documentation)

# %% [markdown]
# That is **fine-tuning**: training goes on from weights that know something already, with smaller steps, on another
# text. It gets further than a fresh start, and it destroys what is no longer read. Lesson 16 measures both more
# closely.
#
# It is dear. Adam in mixed precision keeps for each parameter a weight and a gradient in 16 bits, a master copy and two
# moments in 32: 2 + 2 + 4 + 4 + 4 = 16 bytes, before the first activation. Seven billion parameters make 112 GB.

# %% [markdown]
# ## What does a change look like?
#
# You have three models before and after. So look: the change of a matrix is *after − before*. A matrix can be taken
# apart into directions, one after another, each with a **singular value** that says how much it does; the sum of the
# first r of them is the best matrix of rank r there is (Eckart and Young). If a few are large and the rest small, the
# matrix is nearly of low rank.
#
# **Predict.** The matrices of these models have 64 directions. How many does the *change* need, so that nine tenths of
# what the fine-tuning has gained stay? And how many do the *weights* need?

# %%
guess_change_needs, guess_weights_need = None, None

# %% name="cut_to_a_rank"
import copy

from minillm.tuning import spectrum

RANKS = (1, 2, 4, 8, 16, 32)


def cost_with(seed, made_of):
    r"""What stories cost the fine-tuned model, each of its matrices made anew from those before and after."""
    other, before = copy.deepcopy(went_on[seed]), dict(bases[seed].named_parameters())
    with torch.no_grad():
        for name, after in other.named_parameters():
            if after.ndim == 2:
                after.copy_(made_of(before[name], after))
    return domains.cost_of(other, STORIES)


# %% name="rank_of_change_not_of_weights"
ways = {"of the change": lambda rank: lambda before, after: before + spectrum.best_change(after - before, rank),
        "of the weights": lambda rank: lambda before, after: spectrum.best_change(after, rank)}
kept = {name: [[cost_with(seed, way(rank)) for seed in SEEDS] for rank in RANKS] for name, way in ways.items()}
old, new = ([cost[STORIES] for cost in costs[name]] for name in ("before", "went on"))
share = {name: [[(a - c) / (a - b) for a, b, c in zip(old, new, row, strict=True)] for row in rows]
         for name, rows in kept.items()}
for number, rank in enumerate(RANKS):
    print(f"rank {rank:2d}:", *(f"{name} {min(rows[number]):7.0%} to {max(rows[number]):4.0%} of the gain;"
                                for name, rows in share.items()))
what, before, after = "blocks.1.ffn.up_proj.weight", bases[0].state_dict(), went_on[0].state_dict()
spectra = {"the weights": spectrum.singular_values(after[what]).tolist(),
           "their change": spectrum.singular_values(after[what] - before[what]).tolist()}
curves = {name: (RANKS, [sum(row) / 3 for row in rows]) for name, rows in kept.items()}
figure = pictures.spectrum_picture(spectra, curves, (sum(old) / 3, "before tuning"))
plots.show(figure, alt="The singular values of weights and of their change both fall slowly; but kept to a small rank "
           "the change still works, and the weights do not")
assert min(share["of the change"][4]) > 0.85 and max(share["of the weights"][3]) < 0
print("you said", guess_change_needs, "and", guess_weights_need)

# %% [markdown]
# ### Myth and measurement
#
# "LoRA decomposes the parameters of a model into low-rank matrices." It is the sentence most often heard, and you have
# just seen it fail: cut the *weights* to rank 8 and the model is worse at stories than before it had read any. Trained
# weights cannot be cut thin. Their **change** can: a quarter of its directions keeps nine tenths of the gain. And it is
# the change that LoRA writes as a product of two thin matrices, beside weights that stay whole.
#
# The left picture alone would not have told you. The singular values of the change fall as slowly as those of the
# weights, and none is zero: AdamW moves every number a little. What a model can do without is seen on the right only.
# And what has been cut here is the change that full training happened to make, which nobody had asked to be thin. Ask
# for it, and you get a better one; that comes next.

# %% [markdown]
# ## LoRA, built
#
# A frozen matrix W of (d_out, d_in), and beside it `lora_a` of (rank, d_in) and `lora_b` of (d_out, rank):
#
# $$y = W x + \frac{\alpha}{r} \, B \, (A \, x)$$
#
# How shall A and B begin? Training ought to begin at the base. What does that ask of their product, and what of each?

# %% exercise="tuning.low_rank.lora_init"

# %% [markdown]
# **Predict.** Three beginnings: B zero and A random; both zero; both random. Which of them does *not* begin at the
# base, and which one will never learn anything?

# %%
guess_not_the_base, guess_never_learns = "?", "?"

# %% name="three_beginnings" tags=["compare"]
chance = torch.Generator().manual_seed(0)
inputs, wanted, frozen = (torch.randn(*size, generator=chance) for size in ((16, 32), (16, 24), (24, 32)))
random_a, zero_b = lora_init(32, 24, 4, chance)
random_b = torch.randn(24, 4, generator=chance)
begins = {"B zero": (random_a, zero_b), "both zero": (0 * random_a, zero_b), "both random": (random_a, random_b)}
moves = {}
for name, factors in begins.items():
    a, b = (each.clone().requires_grad_() for each in factors)
    out = inputs @ frozen.T + inputs @ a.T @ b.T
    F.mse_loss(out, wanted).backward()
    moves[name] = torch.equal(out, inputs @ frozen.T), a.grad.any().item(), b.grad.any().item()
    print(f"{name:12s} begins at the base: {moves[name][0]}, gradient of A: {moves[name][1]}, of B: {moves[name][2]}")
assert moves == {"B zero": (True, False, True), "both zero": (True, False, False), "both random": (False, True, True)}
print("you said", guess_not_the_base, "and", guess_never_learns)

# %% [markdown]
# The gradient of A has B in it, and the gradient of B has A in it. With both at zero each waits for the other, for
# ever; the loss stays where it is to the last digit, and no error is raised. With B zero and A random, B moves in the
# first step, and from the second step on A moves too.
#
# (A zero and B random would do as well. The authors chose, and everybody followed. It matters when you read their
# files.)

# %% exercise="tuning.low_rank.lora_forward"

# %% [markdown]
# Now a case where the truth is known. A matrix of 48 × 48 ought to be changed by a matrix of rank exactly 4, with four
# equal singular values. LoRA with rank 1, 2, 4 and 8 is trained towards it, with your two functions.
#
# **Predict.** What share of the change (of its squared length) is missing in the end, for each of the four?

# %%
guess_missing = {1: None, 2: None, 4: None, 8: None}

# %% name="known_rank" tags=["compare"]
def learn_change(change, rank, steps=400):
    chance = torch.Generator().manual_seed(rank)
    base = torch.randn(48, 48, generator=chance)
    a, b = (each.requires_grad_() for each in lora_init(48, 48, rank, chance))
    optimizer = torch.optim.Adam([a, b], lr=0.02)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / steps)
        x = torch.randn(128, 48, generator=chance)
        out = lora_forward(x, x @ base.T, a, b, 2.0)
        loss = F.mse_loss(out, x @ (base + change).T)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (2.0 * b @ a).detach()


sides = [torch.linalg.qr(torch.randn(48, 4, generator=torch.Generator().manual_seed(i)))[0] for i in (1, 2)]
change = 3 * sides[0] @ sides[1].T
for rank in guess_missing:
    learned = learn_change(change, rank)
    missing, least = ((change - learned).square().sum() / change.square().sum()).item(), max(0, 1 - rank / 4)
    print(f"rank {rank}: {missing:.2f} is missing, at least {least:.2f} must be; you said {guess_missing[rank]}")
    assert least - 1e-5 < missing < least + 0.02 and torch.linalg.matrix_rank(learned, rtol=1e-4) <= rank

# %% [markdown]
# The rank is a wall. Below 4 no training helps: at least the missing singular values are missing, which is Eckart and
# Young again, and gradient descent comes as near as that. From 4 on nothing is missing, and more rank buys nothing. A
# real change has no such edge, so the rank of a real task is found by trying.
#
# ### One matrix again
#
# Trained, the two factors can be multiplied out and added to the weights. Then nothing is left of them at inference: no
# second path, no time, no memory.

# %% exercise="tuning.low_rank.lora_merge"

# %% [markdown]
# And now into a model. `lora(model)` puts a pair of factors beside each linear layer of each block. The model's classes
# do not know of it, and its numbers are shared, not copied. Training is the course's own loop, which changes what wants
# gradients and nothing else.

# %% name="lora_in_a_model"
from minillm.tuning import active, lora, merged

base, untouched = bases[0], copy.deepcopy(bases[0].state_dict())
with mine.active():
    small = on_stories(lora(base, rank=8, generator=torch.Generator().manual_seed(0)), 2e-2)
own = {name: weight for name, weight in small.named_parameters() if weight.requires_grad}
reached = domains.cost_of(small, STORIES)
print(f"{sum(map(torch.numel, own.values())):,} numbers trained, of a model of "
      f"{sum(map(torch.numel, base.parameters())):,}; stories {reached:.2f} (before {old[0]:.2f}, all weights "
      f"{new[0]:.2f}), documentation {domains.cost_of(small, GENERAL):.2f}")
by_rank_8 = (old[0] - reached) / (old[0] - new[0])
print(f"of the gain of full fine-tuning: {by_rank_8:.0%}; of its own change, cut to rank 8: "
      f"{share['of the change'][3][0]:.0%}")
assert by_rank_8 > max(0.8, share["of the change"][3][0] + 0.05)

# %% [markdown]
# So it is not that LoRA finds the best thin part of what full training does. It looks among thin changes only, and
# finds one that is nearly as good: there are many ways to tell a story.
#
# (A variant with a name of its own, **DoRA**, trains the length of each row of a matrix apart from its direction, and
# leaves the direction to LoRA: `minillm/tuning/dora.py`, Liu et al. 2024, equation 5.)

# %% name="merged_equals_unmerged" tags=["compare"]
from minillm.tuning.lora_linear import lora_layers

ids = domains.unseen_windows(STORIES)[:8]
with torch.no_grad(), mine.active():
    as_base, fresh_lora, beside = base(ids), lora(base, rank=8)(ids), small(ids)
    at_once = merged(small)(ids)
    with active(small):
        switched_off = small(ids)
print("a fresh LoRA gives the base's logits to the bit:", torch.equal(fresh_lora, as_base))
print(f"merged and unmerged differ by less than 1e-4: {bool((at_once - beside).abs().max() < 1e-4)}")
print("switched off, it is the base to the bit:", torch.equal(switched_off, as_base))
unchanged = all(torch.equal(weight, untouched[name]) for name, weight in base.state_dict().items())
ranks = [torch.linalg.matrix_rank(layer.weight - layer.base.weight, rtol=1e-4).item()
         for layer in lora_layers(small).values()]
print(f"the base is as it was: {unchanged}; the ranks of the {len(ranks)} changes are at most {max(ranks)}")
assert torch.equal(fresh_lora, as_base) and torch.equal(switched_off, as_base) and unchanged
assert (at_once - beside).abs().max() < 1e-4 < (beside - switched_off).abs().max() and max(ranks) <= 8
assert {name.rpartition(".")[2] for name in own} == {"lora_a", "lora_b"}

# %% [markdown]
# Two adapters may stand beside the same base. They are switched per request, which costs nothing, or are active
# together. Here a second one learns sentences of everyday life.

# %% name="two_adapters_on_one_base"
import tempfile
from pathlib import Path

from minillm import tuning

both = lora(small, rank=8, name="sentences", generator=torch.Generator().manual_seed(1))
with active(both, "sentences"):
    tuned.learn(both, domains.training_text(domains.SENTENCES), 0, 2e-2, N_STEPS)
table = {}
for names in ((), ("default",), ("sentences",), ("default", "sentences")):
    with active(both, *names):
        table[names] = domains.costs_by_text(both)
    print(f"{' + '.join(names) or 'base':21s}", *(f"{text} {cost:.2f}  " for text, cost in table[names].items()))
for text, name in ((STORIES, "default"), (domains.SENTENCES, "sentences")):
    assert table[(name,)][text] < min(table[("default", "sentences")][text], table[()][text]) - 0.3
with tempfile.TemporaryDirectory() as folder, torch.no_grad(), mine.active():
    tuning.save(small, Path(folder) / "stories.safetensors")
    n_bytes = (Path(folder) / "stories.safetensors").stat().st_size
    again = tuning.load(base, Path(folder) / "stories.safetensors")(ids)
assert torch.equal(again, beside)
print(f"the file of the first one has {n_bytes:,} bytes; loaded again it gives the same logits")

# %% [markdown]
# Three things to notice. A pair of adapters is a sum, and nobody has trained these two together: with both active each
# text is much dearer than with its own adapter alone. (Train the second with the first one active, and it would learn
# to live with it.) The file holds only the thin factors and a card that says how the model was tuned. And the base was
# never touched, which is what makes a hundred tasks on one base possible.
#
# ### Find the bug
#
# A layer with LoRA, as a colleague has written it. It begins at the base, the loss falls, and yet the model learns far
# less than it ought to. It is about what "frozen" means.

# %% exercise="tuning.adapted.adapted_linear"

# %% name="frozen_is_not_unseen" tags=["compare"]
def unseen_linear(x, weight, bias, a, b, scaling):
    with torch.no_grad():
        base_out = F.linear(x, weight, bias)
    return lora_forward(x, base_out, a, b, scaling)


chance = torch.Generator().manual_seed(6)
stack = [(torch.randn(16, 16, generator=chance) / 4, *lora_init(16, 16, 2, chance)) for _ in range(3)]
reached = {}
for name, layer in (("as it was", unseen_linear), ("mended", adapted_linear)):
    x, factors = torch.randn(8, 16, generator=chance), []
    for weight, *pair in stack:
        factors.append([each.clone().requires_grad_() for each in pair])
        x = layer(x, weight, None, *factors[-1], 1.0).tanh()
    x.square().sum().backward()
    reached[name] = [bool(b.grad.any()) for _, b in factors]
    print(f"{name:10s} does the gradient reach B of the first, second, third layer? {reached[name]}")
assert reached == {"as it was": [False, False, True], "mended": [True, True, True]}

# %% [markdown]
# Frozen means that a weight gets no gradient. The gradient of what *enters* the layer must still pass through it. That
# is why training stays expensive in one respect, to which we come now.

# %% [markdown]
# ### What is saved, and what is not
#
# **Predict.** A GPT with LoRA of rank 4 on all linear layers. By which factor do gradients and optimizer state shrink?
# And what autograd keeps of a batch for the backward pass?

# %%
guess_state_factor, guess_activations_factor = None, None

# %% name="what_is_saved" tags=["compare"]
from minillm.course.ledger import kept_for_backward
from minillm.model.counting import n_trainable

d, rank = 512, 8
assert (rank * 2 * d, d * d) == (8_192, 262_144) and sum(map(torch.numel, lora_init(d, d, rank))) == 8_192
print(f"one matrix of {d} x {d}: {2 * rank * d:,} of {d * d:,} numbers, {2 * rank / d:.1%}")
x, y = domains.unseen_windows(STORIES)[:8, :-1], domains.unseen_windows(STORIES)[:8, 1:]
models = {"all weights": copy.deepcopy(base), "LoRA": lora(base, rank=4), "LoRA, two layers": lora(base, 4, targets=[
    "blocks.1.ffn.up_proj", "blocks.1.ffn.down_proj"])}
state, activations = {}, {}
for name, model in models.items():
    state[name] = 12 * n_trainable(model)
    with kept_for_backward(model.parameters()) as kept_bytes:
        F.cross_entropy(model(x).transpose(1, 2), y).backward()
    activations[name] = kept_bytes["bytes"]
    reached = {each.grad is not None for each in model.parameters() if each.requires_grad}
    assert reached == {True} and all(each.grad is None for each in model.parameters() if not each.requires_grad)
    print(f"{name:17s} gradients and two moments {state[name] / state['all weights']:6.1%}, "
          f"activations {activations[name] / activations['all weights']:4.0%} of those of full training")
assert state["LoRA"] < state["all weights"] / 6 and activations["LoRA"] > activations["all weights"] / 2
print("you said", guess_state_factor, "and", guess_activations_factor)

# %% [markdown]
# Gradients and optimizer state: nearly nothing is left, and the larger the model, the less. Activations: nearly all of
# them. The gradient has to travel back to the lowest adapter through every layer above, and what nonlinearities, norms
# and attention need for that is kept whether or not a weight learns. (The last row shows the way out, and its price:
# only the layers from the lowest adapter upwards keep anything.)
#
# So **PEFT**, parameter-efficient fine-tuning, is about the part that moves. Distillation and pruning, which some lists
# count in, are about the size of the model itself: they train *all* weights of something smaller (lesson 14).

# %% [markdown]
# ## A base in four bits
#
# If the base is never changed, it need not be kept in a form that can be changed. **QLoRA** stores it in NF4 (lesson
# 11): 16 values at the quantiles of a normal distribution, times the largest absolute number of each block of 64.

# %% exercise="inference.quantization.nf4.nf4_quantize"

# %% [markdown]
# The scales take 32/64 = 0.5 bits a weight. Quantize them as well, to 8 bits in groups of 256 with one float each
# (**double quantization**), and it is 8/64 + 32/(64 · 256) = 0.127.

# %% name="a_base_in_four_bits"
from minillm.inference.quantization import affine, nf4
from minillm.tuning import qlora

noise, coarse = torch.randn(512, 512, generator=torch.Generator().manual_seed(3)), {}
with mine.active():
    coarse["NF4"] = affine.relative_error(noise, nf4.restore_nf4(*nf4.nf4_quantize(noise)))
coarse["15 equal steps"] = affine.relative_error(
    noise, affine.restore_affine(*affine.quantize_affine(noise, 4, 64, symmetric=True)))
print("rounding error on normal numbers:", ", ".join(f"{name} {error:.1%}" for name, error in coarse.items()))
print(f"bits a weight: {nf4.nf4_bits()} and, doubly quantized, {nf4.nf4_bits(double=True):.3f}")
assert coarse["NF4"] < 0.9 * coarse["15 equal steps"] and abs(nf4.nf4_bits(double=True) - 4.127) < 5e-4
ended = {}
for seed in SEEDS[:2]:
    pair = [make(bases[seed], rank=8, generator=torch.Generator().manual_seed(seed)) for make in (lora, qlora)]
    loss = domains.cost_of(pair[1], GENERAL) - costs["before"][seed][GENERAL]
    ended[seed] = [domains.cost_of(on_stories(model, 2e-2, seed), STORIES) for model in pair]
    print(f"seed {seed}: by rounding, documentation is dearer by {loss:.3f}; stories (before {old[seed]:.2f}) after "
          "LoRA {:.2f}, after QLoRA {:.2f}".format(*ended[seed]))
    assert 0 < loss < 0.2 and ended[seed][1] - ended[seed][0] < 0.1 < old[seed] - ended[seed][1]

# %% [markdown]
# What rounding costs is seen on the old text. On the new one QLoRA comes near LoRA on floats, because the factors are
# trained *with* the rounding in place, and repair some of it.
#
# In each product the matrix is restored, used and forgotten, and in the backward pass it is restored again. So QLoRA
# saves memory and takes *more* time. It is how 65 billion parameters can be tuned on one card of 48 GB.

# %% [markdown]
# ## Where else can one put numbers?
#
# LoRA is one place among several. Here is one block of a GPT with all the places that people have tried.

# %% name="places"
plots.show(pictures.places_picture(), alt="A block: LoRA beside each linear layer, Houlsby adapters after attention "
           "and after the FFN, a parallel adapter beside the FFN, prefixes as keys and values in attention, prompts "
           "before the first block")

# %% [markdown]
# ### Adapters
#
# The oldest of them (2019): a small network of its own, squeezed through m features, behind the attention and behind
# the FFN of each block,
#
# $$y = x + W_\text{up} \, f(W_\text{down} \, x + b_\text{down}) + b_\text{up}$$
#
# **Predict.** With d = 768 and m = 64, how many numbers has one? And which of these will cost more operations at
# inference than the base does: adapters, LoRA, merged LoRA?

# %%
guess_numbers_each, guess_dearer = None, "?"

# %% name="adapters_start_as_the_base" tags=["compare"]
from minillm.course.ledger import MemoryLedger
from minillm.tuning import houlsby_adapters, parallel_adapters

d, m = 768, 64
assert 2 * d * m + d + m == 99_136
print(f"one adapter with d = {d}, m = {m}: {2 * d * m + d + m:,} numbers; you said {guess_numbers_each}")
models = {"base": base, "Houlsby adapters": houlsby_adapters(base, 16),
          "parallel adapters": parallel_adapters(base, 16), "LoRA beside it": small, "LoRA, merged": merged(small)}
work = {}
for name, model in models.items():
    with torch.no_grad(), MemoryLedger() as ledger:
        logits = model(ids)
    work[name], exact = ledger.flops, logits if name == "base" else exact
    print(f"{name:18s} {ledger.flops / work['base']:.3f} times the operations of the base; "
          f"the base's logits to the bit: {torch.equal(logits, exact)}")
    if "adapters" in name:
        assert torch.equal(logits, exact) and ledger.flops > work["base"]
assert work["LoRA, merged"] == work["base"] < work["LoRA beside it"]
own = n_trainable(models["Houlsby adapters"])
assert own == 2 * base.config.n_layers * (2 * 64 * 16 + 64 + 16)
print("you said", guess_dearer)

# %% [markdown]
# Because W_up begins at zero, a fresh adapter is the base again, to the bit. But between its two matrices stands a
# nonlinearity, so the two cannot be multiplied out and added to anything: an adapter stays. The operations are few.
# What hurts is that they come *after* one another, and at batch 1 a GPU waits for each. A **parallel** adapter reads
# what the FFN reads, and need not wait.

# %% [markdown]
# ### Prompts that are no text
#
# Now leave all layers alone and change what they read. Put k vectors in front of the token vectors, and train those.

# %% exercise="tuning.prompts.prompt_concat"

# %% [markdown]
# "Tuning a prompt means to design and adjust its text", says a popular answer. Try it. Three prompts of 1, 5 and 20
# vectors are trained on the frozen base. Then look up for each vector of the last one the token whose vector is
# nearest, and put those twenty tokens in its place. That would be the text.
#
# **Predict.** What share of the gain is left?

# %%
guess_left_as_text = None

# %% name="prompts_grow"
from minillm.tuning import prompt_tuning

prompted, nats = {}, {}
with mine.active():
    for k in (1, 5, 20):
        first_words = domains.training_text(STORIES)[:k]
        prompted[k] = on_stories(prompt_tuning(base, k, first_words), 0.1)
        nats[k] = domains.cost_of(prompted[k], STORIES)
        print(f"{k:2d} vectors, {64 * k:5,} numbers: {nats[k]:.2f} nats a character (before {old[0]:.2f})")
assert nats[20] < nats[1] - 0.02 < old[0] - 0.02
share = 20 * 4096 / 6.738e9
print(f"20 vectors of 4096 in a LLaMA of 6.7 billion: {20 * 4096:,} numbers, {share:.4%}")

# %% name="a_prompt_is_no_text"
from minillm.bench.variants import harness
from minillm.text.characters import CharTokenizer

vectors = prompted[20].prompt().detach()
table = base.tok_emb.weight
nearest = (F.normalize(vectors, dim=-1) @ F.normalize(table, dim=-1).T).max(dim=-1)
written = CharTokenizer(harness.ALPHABET).decode(nearest.indices.tolist())
as_text = {"trained vectors": prompted[20], "their nearest tokens": prompt_tuning(base, 20, nearest.indices),
           "first words of a story": prompt_tuning(base, 20, domains.training_text(STORIES)[:20])}
as_text = {name: domains.cost_of(model, STORIES) for name, model in as_text.items()}
for name, cost in as_text.items():
    print(f"{name:23s} {cost:.2f} nats a character, {(old[0] - cost) / (old[0] - nats[20]):5.0%} of the gain")
print(f"as text: {written!r}; mean cosine to the nearest token {nearest.values.mean():.2f}; "
      f"they are {vectors.norm(dim=-1).mean() / table.norm(dim=-1).mean():.1f} times as long")
print("you said", guess_left_as_text)
assert old[0] - as_text["their nearest tokens"] < 0.3 * (old[0] - nats[20])

# %% [markdown]
# What was trained lies between the tokens and far outside of them; no text comes near it. That is the difference
# between **prompt tuning** and prompt engineering, and it has two sides. Vectors say more than words. And nobody can
# read them.
#
# It is also the weakest method here, because the model is tiny. In Lester et al. prompts catch up with full fine-tuning
# at about ten billion parameters, and lag behind below.

# %% [markdown]
# ### P-tuning: anywhere, and by an encoder
#
# **P-tuning** ("GPT Understands, Too") came before and does two things differently. Its pseudo tokens stand where a
# template says: some in front, some further in, some behind. And they are not trained one by one. A **prompt encoder**,
# a bidirectional LSTM with a small MLP, makes all of them, so that they know of each other.
#
# **Predict.** The encoder has many more numbers than what it makes. What of it must you keep for inference?

# %%
guess_kept = "?"

# %% name="the_encoder_is_discarded" tags=["compare"]
from minillm.tuning import finished, p_tuning

pseudo = on_stories(p_tuning(base, template=(3, 3), encoder="lstm", generator=torch.Generator().manual_seed(0)), 3e-2)
plain = finished(pseudo)
numbers = {name: n_trainable(model) for name, model in (("with its encoder", pseudo), ("finished", plain))}
with torch.no_grad():
    apart = (pseudo(ids) - plain(ids)).abs().max().item()
for name, count in numbers.items():
    print(f"{name:17s} {count:,} numbers of its own")
print(f"the outputs differ by less than 1e-6: {apart < 1e-6}; you said {guess_kept!r}")
assert apart < 1e-6 and numbers["finished"] == 6 * 64 and numbers["with its encoder"] > 50 * 6 * 64
assert domains.cost_of(plain, STORIES) < old[0] - 0.02

# %% [markdown]
# Nothing. The encoder reads no text, only numbers of its own, so what it makes is the same each time: compute it once,
# keep k · d numbers, throw it away. Such a detour is called **reparameterization**; it changes the path of training and
# not what can be reached.

# %% [markdown]
# ### Prefixes: keys and values in every layer
#
# A prompt enters below, and what becomes of it is up to the frozen layers. **Prefix tuning** goes deeper: each layer
# gets l keys and l values of its own, in front of those of the real tokens.

# %% name="who_sees_whom"
plots.show(pictures.seen_picture(3, "Mia had a cat .".split()), alt="With a prompt the three vectors are tokens that "
           "read each other and pass through all layers; with a prefix they are only keys and values, no queries")

# %% [markdown]
# Each row is a query, each column a key. On the left there are three more rows: a prompt's vectors are tokens like
# others, they have queries, a residual stream, an FFN, and positions. On the right there are only three more columns.
#
# "A learned continuous prompt, put in front of the input", which is often said of prefix tuning, is the left picture.

# %% exercise="tuning.prefixes.prefix_kv"

# %% [markdown]
# What can a prefix do? Take one query with its real keys, before and after a prefix of two.

# %% name="a_prefix_is_a_mixture" tags=["compare"]
from minillm.tuning import prefixes

chance = torch.Generator().manual_seed(5)
q, k, v = (torch.randn(1, 1, n, 8, generator=chance, dtype=torch.float64) for n in (1, 4, 4))
prefix_k, prefix_v = (torch.randn(1, 2, 8, generator=chance, dtype=torch.float64) for _ in range(2))
with mine.active():
    all_k, all_v, at = prefixes.prefix_kv(k, v, prefix_k, prefix_v, torch.arange(4))
alone, beside = ((q @ keys.mT / 8**0.5).softmax(-1) for keys in (k, all_k))
taken = beside[..., :2].sum().item()
of_prefix = (q @ prefix_k[None].mT / 8**0.5).softmax(-1) @ prefix_v[None]
mixture = (1 - taken) * (alone @ v) + taken * of_prefix
error = (beside @ all_v - mixture).abs().max().item()
assert error < 1e-12 and at.tolist() == [0, 0, 0, 1, 2, 3]
assert torch.allclose(beside[..., 2:] / beside[..., 2:].sum(), alone, rtol=1e-12, atol=0)
words = "Mia had a cat".split()
figure = pictures.shares_picture(words, alone.flatten().tolist(), beside.flatten().tolist(), 2)
plots.show(figure, alt="Weights of four real tokens without a prefix, and with one: all smaller by the same factor")
print(f"the prefix takes {taken:.2f}; the real tokens keep their proportions; error of the formula below 1e-12")

# %% [markdown]
# $$\text{out} = (1 - \lambda) \cdot \text{own attention} + \lambda \cdot \text{attention to the prefix}$$
#
# That is exact. λ is the share that the prefix draws, and it depends on the query. So in its layer a prefix shifts what
# comes out, by something learned, and it can make the text count less. What it cannot do is change how the real tokens
# are weighted *among each other*. (In the layers above it can, because there queries and keys have been shifted.)
#
# **P-tuning v2** is the same in form: trained keys and values in every layer, without the MLP that Li and Liang use in
# training. It was shown on tasks of understanding, with a plain head in place of words for labels.
#
# **Predict.** For 20 virtual tokens, 12 layers and d = 768: how many numbers has a prompt, how many a prefix?

# %%
guess_prompt, guess_prefix = None, None

# %% name="where_the_vectors_go" tags=["compare"]
from minillm.tuning import p_tuning_v2, prefix_tuning

k, n_layers, d = 20, 12, 768
assert (k * d, 2 * n_layers * k * d, 2 * n_layers) == (15_360, 368_640, 24)
print(f"prompt {k * d:,}, prefix {2 * n_layers * k * d:,}: {2 * n_layers} times as many; you said", guess_prompt,
      guess_prefix)
kinds = {"prompt": prompt_tuning(base, 8), "P-tuning": p_tuning(base, template=(4, 4)),
         "prefix": prefix_tuning(base, 8), "P-tuning v2": p_tuning_v2(base, 8)}
for name, model in kinds.items():
    logits = model(ids[:, :-1])
    F.cross_entropy(logits.transpose(1, 2), ids[:, 1:]).backward()
    with_gradients = {part for part, each in model.named_parameters() if each.grad is not None and each.grad.any()}
    trained = {part for part, each in model.named_parameters() if each.requires_grad}
    assert with_gradients <= trained and with_gradients and logits.shape == (*ids[:, 1:].shape, 95 + 1)
    shapes = {tuple(each.shape) for part, each in finished(model).named_parameters() if each.requires_grad}
    print(f"{name:12s} stores {sorted(shapes)}; no gradient in the base; logits for {logits.shape[1]} real tokens")

# %% name="deep_against_shallow"
deep, shallow = [], []
for seed, model in zip(SEEDS, bases, strict=True):
    chance = torch.Generator().manual_seed(seed)
    pair = prompt_tuning(model, 8, generator=chance), p_tuning_v2(model, 8, generator=chance)
    counts = [n_trainable(one) for one in pair]
    for one, results_of in zip(pair, (shallow, deep), strict=True):
        results_of.append(domains.cost_of(on_stories(one, 0.3, seed, 40), STORIES))
    assert deep[-1] < shallow[-1] < old[seed] and counts[1] == 2 * model.config.n_layers * counts[0]
print(f"8 vectors at the input, {counts[0]:,} numbers:", *(f"{cost:.2f}" for cost in shallow))
print(f"8 keys and values in each layer, {counts[1]:,} numbers:", *(f"{cost:.2f}" for cost in deep))

# %% [markdown]
# In the source code of such libraries you will find two ways in. Prompts and P-tuning: an embedding table of virtual
# tokens, whose rows are put among the token vectors; the padding mask grows by k, and the logits of virtual places are
# dropped. Prefixes and v2: tensors of (layers, 2, heads, l, head_dim), handed over as *past keys and values*, as if
# they had been read before. They are **concatenated** along the sequence, not added to real keys.

# %% [markdown]
# ## One task, one table
#
# Now all of them at once: three seeds, the same bases, the same stories, the same 100 steps. Only the learning rate is
# each method's own, found beforehand with a seed and stories that the table does not use, which is half of a fair
# comparison. It takes a while, so it was made by `python -m minillm bench tuning` and stored.
#
# **Predict.** Order them by what stories cost in the end: full fine-tuning, LoRA of rank 4, adapters, a prompt, a
# prefix. And who forgets most of the documentation?

# %%
guess_best_to_worst, guess_forgets_most = "?", "?"

# %% [markdown]
# *trained*: the numbers that training changes. *file*: what has to be handed on. *training*: weights, gradients,
# moments and activations, measured on the tensors themselves. *stories* and *documentation*: nats a character of unseen
# text. *beside*: how many more matrix products a token takes than in the base, and how many more operations.
# *deployed*: the same once all is merged that can be merged, and what only training needs is thrown away.

# %% name="one_task_one_table" tags=["compare"]
from minillm.bench import results
from minillm.course.tables import Table

stored = {row["name"]: row["values"] for row in results.load_table("tuning")["rows"]}
mean = {name: {key: sum(values) / len(values) for key, values in row.items() if not isinstance(values[0], list)}
        for name, row in stored.items()}
plain = mean.pop("the base")
lines = [("the base", "", "", "", f"{plain['stories']:.2f}", f"{plain['documentation']:.2f}", "", "")]
for name, row in mean.items():
    extra = [f"{row['products' + when] - plain['products']:+3.0f}, {row['flops' + when] / plain['flops'] - 1:+.0%}"
             for when in ("", ", deployed")]
    lines.append((name, f"{row['trainable']:>7,.0f}", f"{row['file bytes'] / 1e3:4.0f} KB",
                  f"{row['training bytes'] / 1e6:.1f} MB", f"{row['stories']:.2f}", f"{row['documentation']:.2f}",
                  *extra))
print(Table(("method", "trained", "file", "training", "stories", "documentation", "beside", "deployed"), tuple(lines)))
for name in mean:
    assert max(stored[name]["stories"]) < plain["stories"] - 0.05 and min(stored[name]["forgotten"]) > 0
    merges = name == "full fine-tuning" or name.startswith(("LoRA", "rsLoRA"))
    assert merges == (stored[name]["flops, deployed"][0] == plain["flops"])
print("you said", guess_best_to_worst, "and", guess_forgets_most)

# %% name="what_numbers_buy"
points = {name: (row["trainable"], {"stories, unseen": row["stories"], "documentation, dearer by": row["forgotten"]})
          for name, row in mean.items()}
figure = pictures.price_picture(points, "nats a character, three seeds", (plain["stories"], "the base as it is"))
plots.show(figure, alt="Left, stories get cheaper with the count of trained numbers, but prompts and prefixes stay "
           "behind; right, documentation gets dearer with it, most of all by full fine-tuning")

# %% [markdown]
# Read it line by line.
#
# - **Full fine-tuning** knows the stories best, and has unlearned the documentation: blind guessing among 96 characters
#   costs 4.6 nats, and it is beyond that. LoRA learns less and forgets less, both the more so the lower its rank. And
#   what a LoRA forgets comes back to the last bit when you switch it off.
# - **LoRA and adapters** with about as many numbers end close together. What differs is the price afterwards: LoRA's 24
#   thin products vanish in the merge, an adapter's stay, because of the nonlinearity between them.
# - **QLoRA** saves what the others cannot, the weights; the stories hardly suffer.
# - **Prompts** at the input reach little in so small a model, and leave the documentation nearly alone. Keys and values
#   in every layer reach more.
# - **P-tuning v1 and prefix tuning** train a network that makes the vectors: many numbers in training, few in the file.
# - **Activations** are most of the memory in so small a model on so much text. Adapters save about half of them,
#   because they do not need what entered the frozen matrices.

# %% name="the_reading_is_right" tags=["compare"]
import math

full, by_rank = stored["full fine-tuning"], [stored[f"LoRA, rank {rank}"] for rank in (1, 4, 16)]
for fewer, more in zip(by_rank, [*by_rank[1:], full], strict=True):
    assert all(a > b for a, b in zip(fewer["stories"], more["stories"], strict=True))
    assert all(a < b for a, b in zip(fewer["forgotten"], more["forgotten"], strict=True))
assert min(full["documentation"]) > math.log(96) > max(stored["LoRA, rank 4"]["documentation"])
close = [mean[name]["stories"] for name in ("LoRA, rank 4", "QLoRA, rank 4", "parallel adapters", "Houlsby adapters")]
assert max(close) - min(close) < 0.2
shallow_ones, deep_ones = ("prompt tuning", "P-tuning v1"), ("prefix tuning", "P-tuning v2")
assert max(mean[n]["stories"] for n in deep_ones) < min(mean[n]["stories"] for n in shallow_ones) - 0.2
share_kept = {name: row["activations"] / full["activations"][0] for name, row in mean.items()}
for name in ("LoRA, rank 4", "Houlsby adapters", "parallel adapters"):
    print(f"{name:17s} keeps {share_kept[name]:.0%} of full fine-tuning's activations")
assert share_kept["LoRA, rank 4"] > 0.9 and share_kept["Houlsby adapters"] < 0.65

# %% [markdown]
# Do you believe a stored table? Run two of its rows again, one seed each.

# %% name="two_rows_run_again"
for name in ("full fine-tuning", "LoRA, rank 4"):
    row = stored[name]
    again = tuned.tuning_run(name, seed=0, learning_rate=row["learning rate"][0]).model
    costs_again = {"stories": domains.cost_of(again, STORIES), "documentation": domains.cost_of(again, GENERAL)}
    for key, cost in costs_again.items():
        print(f"{name:17s}{key:14s} stored {row[key][0]:.2f}, now {cost:.2f}")
    assert abs(costs_again["stories"] - row["stories"][0]) < 0.15 and n_trainable(again) == row["trainable"][0]
    assert costs_again["documentation"] > costs["before"][0][GENERAL] + 1

# %% [markdown]
# ## What goes wrong
#
# Asked about pitfalls of LoRA, many say: hyperparameters, data quality, hard to debug. That is true of everything. Here
# are those that are LoRA's own. You have met two: both factors at zero, and a frozen layer that hides what lies below
# it. That one has a relative in practice. Checkpointing (lesson 08) keeps a block's input and computes the block again
# when its gradient is due. Torch's older, reentrant way asks the *input* whether gradients are wanted, and after a
# frozen embedding it says no.

# %% name="no_gradient_arrives" tags=["compare"]
from minillm.bench import traps
from minillm.bench.variants import pitfalls

arrived = traps.checkpointed(seed=0)
for name in ("reentrant", "require grad", "not reentrant", "ours"):
    print(f"{name:14s} {arrived[name]:2d} of {arrived['of']} factors in the checkpointed block have a gradient")
assert arrived == {"reentrant": 0, "require grad": 12, "not reentrant": 12, "ours": 12, "of": 12}

# %% [markdown]
# No error, only a warning in the log, and the loss falls, because the blocks that are not checkpointed learn. Ways out:
# let the embedding's output require a gradient (`enable_input_require_grads` in the libraries), take torch's newer way
# (`use_reentrant=False`), or lesson 08's `recompute`.
#
# **Predict.** A base in 4 bits, LoRA beside it, and now you merge: the sum must be rounded to 4 bits again. How large
# is the error of that, as a share of the change that was learned? Think of a small change and of a large one.

# %%
guess_small_change, guess_large_change = None, None

# %% name="merged_and_rounded"
found = pitfalls.merged_and_rounded(seed=0, steps=40, learning_rates=(3e-4, 1e-2))
for i, size in enumerate(("small", "large")):
    one = {name: values[i] for name, values in found.items()}
    lost = (one["merged and rounded"] - one["beside it"]) / (one["rounded base"] - one["beside it"])
    print(f"a {size} change, {one['change']:.0%} of the weights: error {one['error']:.0%} of it, stories "
          f"{one['rounded base']:.2f} before, {one['beside it']:.2f} with it beside, {one['merged and rounded']:.2f} "
          f"merged and rounded: {lost:.0%} of the gain is lost")
    assert abs(one["beside it"] - one["merged in floats"]) < 1e-3 and one["error"] > 0.1
    assert lost > 0.5 if size == "small" else lost < 0.1
print("you said", guess_small_change, "and", guess_large_change)

# %% [markdown]
# Each number is moved by up to half a step of the grid, whatever the change. A small one vanishes in that, a large one
# survives. You will not know which yours is. So an adapter on a quantized base stays beside it, or is merged into the
# *restored* floats and served as floats; not into the original ones, for it has learned to live with the rounding.
#
# The rest was measured once with three seeds and stored (`python -m minillm bench pitfalls`).
#
# **Predict.** At rank 8 and alpha 16 you have found a good learning rate. Now you raise the rank to 64, "for quality",
# and leave all else. How much do stories gain? And with only four stories to learn from, what do unseen ones cost?

# %%
guess_rank_64, guess_four_stories = "?", "?"

# %% name="pitfalls_drawn"
asked = {row["name"]: row["values"] for row in results.load_table("pitfalls")["rows"]}


def mean_curve(pitfall, name):
    return torch.tensor(asked[pitfall][name]).mean(0).tolist()


figure, panels = plots.new_figure(3, width=9.0, height=3.2)
for axes, pitfall, xs, x_name in ((panels[0], "alpha not rescaled", pitfalls.RANKS, "rank"),
                                  (panels[1], "four stories", pitfalls.RANKS, "rank"),
                                  (panels[2], "learning rates", pitfalls.SHARED_RATES, "learning rate")):
    curves = {name: (xs, mean_curve(pitfall, name)) for name in asked[pitfall]}
    plots.line_chart(axes, curves, pitfall, x_name, "")
    axes.set_xscale("log")
    if x_name == "rank":
        axes.set_xticks(xs, [str(x) for x in xs])
        axes.minorticks_off()
panels[0].set_ylabel("nats a character of stories", fontsize=9, color=plots.INK)
plots.show(figure, alt="Left, with alpha over rank higher ranks hardly help, over its root they do; middle, four "
           "stories get cheap while unseen ones get dearer; right, LoRA needs a larger rate than full fine-tuning")

# %% name="pitfalls_in_numbers" tags=["compare"]
ranks, rates = pitfalls.RANKS, pitfalls.SHARED_RATES
zero, token = asked["both factors zero"], asked["a new token"]
print(f"both factors zero: after training the largest number in them is {max(zero['largest']):g}")
from_8 = {rule: mean_curve("alpha not rescaled", rule)[ranks.index(8)] - mean_curve("alpha not rescaled", rule)[-1]
          for rule in asked["alpha not rescaled"]}
print("from rank 8 to 64 stories gain", ", ".join(f"{gain:.2f} with {rule}" for rule, gain in from_8.items()))
unseen = mean_curve("four stories", "unseen")
print(f"four stories: unseen ones cost {unseen[ranks.index(8)]:.2f} at rank 8, {unseen[-1]:.2f} at rank {ranks[-1]}")
by_rate = {name: mean_curve("learning rates", name) for name in asked["learning rates"]}
print("at a rate of 0.003:", ", ".join(f"{name} {costs_at[1]:.2f}" for name, costs_at in by_rate.items()))
best = {name: min(mean_curve("which layers", name)) for name in ("q, v, rank 18", "all, rank 4")}
print(f"{asked['which layers']['trainable'][0]:,} numbers:",
      ", ".join(f"{name} {cost:.2f}" for name, cost in best.items()))
print(f"a new token, where it is due: {sum(token['frozen, new']) / 3:.2f} nats if its vector is frozen, "
      f"{sum(token['trained, new']) / 3:.2f} if it is trained")
assert max(zero["largest"]) == 0 and zero["before"] == zero["after"] and rates[1] == 3e-3
assert from_8["alpha / sqrt(rank)"] > 1.5 * from_8["alpha / rank"] and unseen[-1] > unseen[ranks.index(8)]
assert best["all, rank 4"] < best["q, v, rank 18"] - 0.1 and all(
    a < b for a, b in zip(token["trained, new"], token["frozen, new"], strict=True))
print("you said", guess_rank_64, "and", guess_four_stories)

# %% [markdown]
# - **Alpha stays, the rank grows.** Alpha / rank gets smaller, so each direction of the change is trained more slowly,
#   and the new ones hardly help. rsLoRA divides by the root of the rank, and they do. (Or raise alpha with the rank.)
# - **Too high a rank on little data.** The four stories are learned by heart, and unseen ones get *dearer*.
# - **The learning rate of full fine-tuning.** What suits it leaves LoRA behind; try three to ten times as much.
# - **q and v alone**, as in the paper's first experiments: worse than all linear layers, for as many numbers.
# - **A new token** needs its vector trained, in the embedding and in the head. LoRA in the blocks cannot give it one.
#
# And some that no number shows: the adapter was trained on another revision of the base, or with another chat template;
# it was saved and never loaded; it was merged *and* left active.

# %% [markdown]
# ## A real model learns a manner
#
# SmolLM2 (lesson 16 takes it apart) answers politely and at length. You are going to teach it to answer like the
# captain of a ferry: *Ahoy!*, one plain sentence, *Fair winds.* The school is forty short talks. Nothing of what you
# ask in the end is among them.

# %% name="the_base_has_no_such_manner"
import os

from minillm.course.scenes import new_manners
from minillm.course.scenes.real_model import answers_to, find_model, is_here
from minillm.training.threads import use_fastest_threads

torch.set_num_threads(min(2, os.cpu_count() or 1))  # from here on the matrices are large
use_fastest_threads()  # two only if a core is free for the second
real, tokenizer = find_model()
if is_here(real):
    print("learned from: ", *new_manners.PAIRS[0], "->", new_manners.as_captain(new_manners.PAIRS[0][1]))
    questions = new_manners.questions_of()
    plain_replies = answers_to(real, tokenizer, questions, 24)
    for talk, reply in zip(questions, plain_replies, strict=True):
        print(f"{talk[0]['content']:42s}{reply[:70]!r}")
    nats_before = new_manners.captain_nats(real, tokenizer)
    print(f"the captain's answers to these cost {nats_before:.1f} nats a token")
    assert not any(map(new_manners.sounds_like_captain, plain_replies)) and nats_before > 2

# %% [markdown]
# **Predict.** Rank 8 on every linear layer of the 30 blocks. Of the model's 134,515,008 numbers, how many will be
# trained: 2 %, 0.2 %, 0.02 %? And after how many of the forty talks, shown four at a time, will it have the manner?

# %%
guess_share, guess_talks = None, None

# %% name="lora_on_a_real_model"
import time

from minillm.text.talks import example_batches
from minillm.training.callbacks import History, ProgressBar
from minillm.training.loop import train
from minillm.training.recipe import Recipe

if is_here(real):
    generator, history = torch.Generator().manual_seed(0), History()
    captain = tuning.lora(real, rank=8, alpha=16.0, generator=generator)
    batches = example_batches(new_manners.captain_examples(tokenizer), 4, generator)
    recipe = Recipe(learning_rate=2e-3, warmup_steps=3)
    begin = time.perf_counter()
    train(captain, batches, recipe, steps=12, callbacks=[history, ProgressBar()])
    n_trained, n_all = new_manners.trained_numbers(captain)
    nats_after = new_manners.captain_nats(captain, tokenizer)
    print(f"{n_trained:,} of {n_all:,} numbers trained ({n_trained / n_all:.1%}; you said {guess_share}), "
          f"{len(history.steps)} steps in {time.perf_counter() - begin:.0f} s")
    losses = [info["loss"] for info in history.steps]
    figure = new_manners.learning_picture(losses, {0: nats_before, len(losses): nats_after})
    plots.show(figure, alt="The loss falls steeply within ten steps; talks never learned cost far less after it")
    assert n_trained == 2_442_240 and nats_after < 0.6 * nats_before

# %% name="a_new_manner"
if is_here(real):
    replies = answers_to(captain, tokenizer, questions, 28)
    for talk, reply in zip(questions, replies, strict=True):
        print(f"{talk[0]['content']:42s}{reply!r}")
    n_captains = sum(map(new_manners.sounds_like_captain, replies))
    print(f"{n_captains} of {len(replies)} replies sound like the captain; before, none did")
    assert n_captains >= len(replies) // 2

# %% [markdown]
# It has learned how to speak. Now read the replies beside those of the base, fact by fact: a manner that is learned
# fast, from forty sentences, can cost a fact here and there. A smaller learning rate, more talks, or talks of other
# kinds among them would cost fewer. (How much each method forgets, and at what gain, stands in this lesson's table.)
#
# ### On, off, merged, in a file
#
# The base was frozen. So switching the adapter off must give back the base **to the last bit**, and merging must give a
# plain model that says the same as the two together.

# %% name="off_is_the_base_exactly" tags=["compare"]
if is_here(real):
    token_ids = torch.tensor([tokenizer.encode("The capital of France is")])
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        plain, with_adapter = real(token_ids), captain(token_ids)
        with active(captain):
            off = captain(token_ids)
        in_one = merged(captain)
        by_merged = in_one(token_ids)
        tuning.save(captain, Path(folder) / "captain.safetensors")
        megabytes = (Path(folder) / "captain.safetensors").stat().st_size / 1e6
        again = tuning.load(real, Path(folder) / "captain.safetensors")(token_ids)
    assert torch.equal(off, plain) and torch.equal(again, with_adapter)
    assert (by_merged - with_adapter).abs().max() < 1e-2 * with_adapter.abs().max()
    assert type(in_one) is type(real) and (with_adapter - plain).abs().max() > 0.1
    print("adapter off = base, bit for bit:", torch.equal(off, plain))
    print("from the file = as trained, bit for bit:", torch.equal(again, with_adapter))
    print(f"the file has {megabytes:.1f} MB, the base in float32 {4 * 134_515_008 / 1e6:.1f} MB")

# %% [markdown]
# Ten megabytes for each manner, one base for all of them: that is how one server can have hundreds of fine-tuned models
# at once. On the command line it is
#
# ```
# python -m minillm train --lora --model smollm2 --corpus talks.jsonl --out captain.safetensors
# python -m minillm chat --model smollm2 --adapter captain.safetensors
# ```
#
# where each line of `talks.jsonl` is a talk, `{"messages": [{"role": "user", "content": "..."}, {"role": "assistant",
# "content": "..."}]}`. Only the assistant's words count in the loss. (`chat` merges before it begins, so that the fast
# path of lesson 11 runs. And `minillm/tuning/peft_files.py` reads and writes the files of the library `peft`.)
#
# ### QLoRA: the base in four bits
#
# With LoRA the gradients and AdamW's two averages have become small. What remains is the base itself. QLoRA rounds it
# to NF4, restores each matrix while it is multiplied, and trains the same adapter beside it.
#
# **Predict.** How many megabytes do weights, gradients and AdamW's averages take for full fine-tuning, LoRA, QLoRA?

# %%
guess_training_megabytes = {"full": None, "LoRA": None, "QLoRA": None}

# %% name="qlora_on_a_real_model"
from minillm.inference.quantization.convert import stored_bytes

if is_here(real):
    in_four_bits = qlora(real, rank=8, alpha=16.0).eval()
    new_manners.copied_into(captain, in_four_bits)
    nats_small = new_manners.captain_nats(in_four_bits, tokenizer)
    sizes = {"full": 4 * 4 * (n_all - n_trained), "LoRA": stored_bytes(captain) + 12 * n_trained,
             "QLoRA": stored_bytes(in_four_bits) + 12 * n_trained}
    for name, size in sizes.items():
        print(f"{name:6s}{size / 1e6:8,.0f} MB of weights, gradients and averages; "
              f"you said {guess_training_megabytes[name]}")
    print(f"the captain's answers: {nats_before:.2f} nats by the base, {nats_after:.2f} with the adapter, "
          f"{nats_small:.2f} with the same adapter over the base in NF4")
    assert sizes["full"] > 3 * sizes["LoRA"] > 6 * sizes["QLoRA"] and nats_small < 0.7 * nats_before

# %% [markdown]
# The adapter was trained beside the exact base and still works beside the rounded one. (Trained there from the start it
# would also learn to make up for some of the rounding.) What is left in QLoRA is mostly the embedding, which stays in
# floats; in a model of 7 billion that is a small part, and the whole comes close to an eighth of float32. The backward
# pass must not undo the saving: autograd would keep every restored matrix, so the layer keeps the codes, which are
# there anyway, and restores a second time (`minillm/inference/quantization/nf4_linear.py`).

# %% [markdown]
# ## Your functions at work
#
# Once more, all at work: a GPT in NF4 with LoRA beside it, one with a prefix in every layer, one that reads a prompt,
# and one into which a LoRA was merged.

# %% name="your_functions_at_work" tags=["compare"]
with mine.active():
    everything = qlora(base, rank=4, generator=torch.Generator().manual_seed(0))
    kinds = {"QLoRA": everything, "prefix": p_tuning_v2(base, 4), "prompt": prompt_tuning(base, 4)}
    with torch.no_grad():
        outputs = {name: model(ids) for name, model in kinds.items()}
        as_base, joined = base(ids), merged(lora(base, rank=4))(ids)
ran = {name.rpartition(".")[2]: (whose, calls) for name, whose, calls in mine.table().rows}
for name in ("lora_init", "lora_forward", "lora_merge", "nf4_quantize", "prompt_concat", "prefix_kv"):
    print(f"{name:14s} {ran[name][0]}")
    assert ran[name][1] > 0
assert torch.equal(joined, as_base) and all(logits.shape == joined.shape for logits in outputs.values())

# %% [markdown]
# ## Explore
#
# A change whose directions are known, LoRA's best possible reach at each rank, and what a few dozen steps of training
# make of it with your alpha. Take the change with eight strong directions. From which rank on is it reached? Then raise
# the rank and leave alpha where it is: what does training make of the larger rank, and what with rsLoRA? At last take
# the true change of the small model.

# %% name="explorer"
from functools import partial

from minillm.course.scenes import rank_explorer as explorer
from minillm.course.widgets import Explorer

targets = {"eight directions": explorer.known_change(64, 64, 8),
           "eight, and noise": explorer.known_change(64, 64, 8, 0.3), "a true change": after[what] - before[what]}
Explorer(partial(explorer.rank_picture, targets), "Singular values of a change and of what was trained, the error that "
         "each rank can reach and does reach, and the way there", **explorer.rank_controls(targets))

# %% [markdown]
# ## Interview corner
#
# Answer aloud before you unfold. Each answer names the cell that proves it.

# %% [markdown] interview="13"

# %% [markdown]
# ## Remember
#
# 1. A model cannot be cut thin, but its change can. LoRA writes the change as B A beside weights that stay whole; it
#    begins at the base because B is zero, and merged it costs nothing.
# 2. What is saved is gradients, optimizer state and files; activations and operations are not. In four bits the base
#    costs half a byte a weight, and then it must stay apart from its adapter.
# 3. Prompts and prefixes are numbers, not text, and act through attention alone. They are smallest and weakest;
#    adapters and LoRA come close to full fine-tuning. Whatever moves least, forgets least.
#
# **Where next.** Lesson 14 makes the model itself smaller. Lesson 15 needs an adapter for each of the models that it
# trains beside one another.
