# %% [markdown]
# # 07 The tiny GPT
#
# You put the parts together: a block, the model, its loss, its first weights. You count it before you build it, then
# you train it on stories, and every step of that training runs through the functions that you wrote. At the end the
# same parts become BERT, T5, GLM and XLNet: what changes is the mask and the question.
#
# | | |
# |---|---|
# | **You need** | lesson 02 (attention and masks); softmax and `log_softmax` from lesson 00 |
# | **Time** | about two hours for the nine exercises, an hour and a half for the rest |
# | **Runs on** | any CPU with 2 GB; all cells together less than a minute, most of it one training run |
#
# **Sources.** Radford et al. 2019 (GPT-2), section 2.3; Touvron et al. 2023 (LLaMA), section 2.2; Kaplan et al. 2020,
# section 2.1; Devlin et al. 2019 (BERT), section 3.1; Liu et al. 2019 (RoBERTa), section 4; Raffel et al. 2020 (T5),
# section 3.1; Du et al. 2022 (GLM), section 2; Yang et al. 2019 (XLNet), section 2.
#
# An exercise is three cells: the task with folded hints, a cell for your function, and a check that tells you which
# mistake you made. Until yours is right, the lesson goes on with the course's own.

# %% [markdown]
# ## The whole machine

# %% name="the_whole_machine"
import math
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from minillm.course import check, hint, mine, plots, reset, solution  # noqa: F401
from minillm.course.scenes.dependencies import dependency_table
from minillm.course.scenes.model_pictures import block_designs, mask_gallery, stacked_bars, whole_model
from minillm.training.threads import use_fastest_threads

use_fastest_threads()  # on a busy machine two threads that wait for each other are slower than one
picture = whole_model()
plots.show(picture, alt="From token ids through the embedding, the blocks, the final norm and the head to the logits")

# %% [markdown]
# Read it from top to bottom. A table turns each token into a vector of `d_model` numbers. From there on one tensor runs
# through the model, the **residual stream**, and it keeps its shape (B, T, D) to the end. Each block reads the stream
# and *adds* to it. The last matrix turns each vector into `vocab_size` scores for the token that comes next.
#
# So there is one thing to understand, the block, and it comes in two designs:

# %% name="two_designs"
picture = block_designs()
plots.show(picture, alt="Pre-norm: norms inside the branches, the stream only added to. Post-norm: norms in the stream")

# %% [markdown]
# ## One token, two features
#
# The smallest block that shows the difference: one token, $x = (1, 7)$, and a norm that divides by the root of the mean
# square. For this x that root is 5, so the norm gives $(0.2,\ 1.4)$. Let `attn` turn its vector by a right angle,
# $(a, b) \to (-b, a)$, and let `ffn` keep the positive features and drop the others.

# %% name="one_token_two_features" tags=["compare"]
def norm_of_two(x):
    return x / x.square().mean(-1, keepdim=True).sqrt()


x = torch.tensor([1.0, 7.0])
seen_by_attn = norm_of_two(x)
after_attn = x + torch.stack([-seen_by_attn[1], seen_by_attn[0]])
after_ffn = after_attn + norm_of_two(after_attn).clamp(min=0)
assert torch.allclose(after_attn, torch.tensor([-0.4, 7.2])) and after_ffn[0] == after_attn[0]
for name, vector in (("x", x), ("what attn reads", seen_by_attn), ("+ attn", after_attn), ("+ ffn", after_ffn)):
    print(f"{name:16s}", [round(number, 2) for number in vector.tolist()])

figure, (axes,) = plots.new_figure(width=5.4, height=3.2)
stops = {"x": x, "+ what attn answers": after_attn, "+ what ffn answers": after_ffn}
for name, vector in stops.items():
    axes.annotate(name, vector.tolist(), xytext=(8, 6), textcoords="offset points", fontsize=10)
axes.plot(*zip(*(vector.tolist() for vector in stops.values()), strict=True), "o-", color=plots.COLOURS[0])
axes.set(xlim=(-1.5, 2.5), ylim=(6.5, 9.2), title="Each part adds a step to the stream")
plots.show(figure, alt="A path from x, by the step that attn adds, to the left, and the step that ffn adds, upwards")

# %% [markdown]
# The parts read a copy of length about 1, however long x has become. Their answers are steps of length about 1 too. The
# stream itself is never normalized, and that is the point of the design.
#
# **Predict.** Suppose both parts answer 0, as they nearly do in a fresh model. What comes out of the pre-norm block for
# x = (1, 7)? And what of the post-norm block? The cell after your exercise shows both.

# %%
guess_pre, guess_post = None, None  # two vectors

# %% exercise="model.block.block_forward"

# %% name="a_block_that_says_nothing" tags=["compare"]
from minillm.model import block as block_module

silent_parts = {"attn": torch.zeros_like, "ffn": torch.zeros_like, "attn_norm": norm_of_two, "ffn_norm": norm_of_two}
token = torch.tensor([[[1.0, 7.0]]])
pre = block_forward(token, **silent_parts)
post = block_module.post_norm_forward(token, **silent_parts)
assert torch.equal(pre, token) and torch.allclose(post, torch.tensor([0.2, 1.4]))
print("pre-norm: ", [round(number, 2) for number in pre.flatten().tolist()], f"- you said {guess_pre}")
print("post-norm:", [round(number, 2) for number in post.flatten().tolist()], f"- you said {guess_post}")

# %% [markdown]
# A silent pre-norm block is the identity: the input passes it unharmed, and so does the gradient on its way back.
# Stacking a hundred such blocks is harmless, and that is why deep models are pre-norm. A post-norm block rescales
# everything that comes through, each time. (Lesson 05 measures what that does to gradients.)
#
# ### What a block is made of
#
# Now a block of realistic width, in float64, from lesson 02's attention and an ordinary FFN. Three questions, each
# settled by a measurement. How many weights are where? What is left if the last matrix of each branch is 0? And if you
# shuffle the tokens, does the block notice?

# %% name="parts_for_experiments"
from minillm.layers import masks, multi_head


def fresh_parts(d_model, mask=None, seed=0, silent=False):
    """Attention, FFN and norms with random weights, in float64; silent ones end in a matrix of zeros."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(d_model, d_model)] * 4 + [(4 * d_model, d_model), (d_model, 4 * d_model)]
    drawn = [torch.randn(*shape, generator=generator, dtype=torch.float64) / shape[1] ** 0.5 for shape in shapes]
    w_q, w_k, w_v, w_o, up, down = drawn
    if silent:
        w_o, down = 0 * w_o, 0 * down

    def attn(h):
        return multi_head.multi_head_attention(h, w_q, w_k, w_v, w_o, n_heads=4, mask=mask)

    def ffn(h):
        return nn.functional.gelu(h @ up.T) @ down.T

    return {"attn": attn, "ffn": ffn, "attn_norm": norm_of_two, "ffn_norm": norm_of_two}

# %% name="what_a_block_is_made_of" tags=["compare"]
d_model, d_ff, seq_len = 512, 2048, 16
in_attention, in_ffn = 4 * d_model**2, 2 * d_model * d_ff
assert (in_attention, in_ffn) == (1_048_576, 2_097_152)
print(f"weights: attention {in_attention:,}, FFN {in_ffn:,}: {in_ffn / (in_attention + in_ffn):.0%} of a block is FFN")

generator = torch.Generator().manual_seed(1)
x = torch.randn(1, seq_len, d_model, generator=generator, dtype=torch.float64)
left = (block_forward(x, **fresh_parts(d_model, silent=True)) - x).abs().max().item()
assert left == 0
print(f"with o_proj and down_proj zero, the block changes its input by {left}")

shuffle = torch.randperm(seq_len, generator=generator)
places = torch.arange(seq_len)
gaps = {}
for name, mask in (("no mask", None), ("causal mask", masks.causal_mask(places, places))):
    parts = fresh_parts(d_model, mask)
    gaps[name] = (block_forward(x[:, shuffle], **parts) - block_forward(x, **parts)[:, shuffle]).abs().max().item()
    verdict = "the outputs are shuffled alike" if gaps[name] < 1e-12 else "the outputs differ"
    print(f"tokens shuffled, {name}: {verdict}")
assert gaps["no mask"] < 1e-12 and gaps["causal mask"] > 0.1

# %% [markdown]
# So neither attention nor the FFN knows any order. It has to come from somewhere: from positions that are added to the
# input, from rotations inside attention (lesson 04), or, to a small degree, from the mask, which lets a token count how
# many came before it.
#
# ## The whole model
#
# With the block as a function, the model is a few lines. Look at the picture at the top again, and write it.

# %% exercise="model.gpt.gpt_forward"

# %% [markdown]
# Use it at once, on the parts of a real model. `GPT` holds the weights; your function does the work. The shapes are
# printed step by step.

# %% name="your_forward_pass" tags=["compare"]
from minillm.config import Init, preset
from minillm.model.gpt import GPT
from minillm.text.stories import StoryLanguage

language = StoryLanguage()
tiny = preset("tiny", vocab_size=language.tokenizer.vocab_size)
model = GPT(replace(tiny, init=Init(0.5, 0.1, "plain")), torch.Generator().manual_seed(0)).double().eval()
words = "Mia and her dog Noodle wanted"
token_ids = torch.tensor([language.tokenizer.encode(words)])
positions = torch.arange(token_ids.shape[1])
blocks = [partial(block, positions=positions) for block in model.blocks]

with torch.no_grad():
    logits = gpt_forward(
        token_ids, positions, model.tok_emb, model.pos_emb, blocks, model.final_norm, model.lm_head)
    assert torch.equal(logits, model(token_ids)), "your function and the model's forward pass agree to the last bit"
print("token_ids", tuple(token_ids.shape), "->", "tok_emb", tuple(model.tok_emb(token_ids).shape))
print("          ->", len(blocks), "blocks, each (1, 6, 128) ->", "logits", tuple(logits.shape))

# %% [markdown]
# ### Which vector holds the question?
#
# A user asks *我去哪里？* and the model answers *去北京*. A favourite interview question: which vector in the model
# represents the question at that moment? Many say: the embedding of the last token, 去. Find out by changing each input
# token in turn and looking at which hidden states move.

# %% name="only_the_last_position_has_read_everything" tags=["compare"]
moves = torch.zeros(6, 6, dtype=torch.float64)
with torch.no_grad():
    hidden = model.hidden(token_ids)
    for j in range(6):
        changed = token_ids.clone()
        changed[0, j] = 100
        moves[:, j] = (model.hidden(changed) - hidden)[0].abs().amax(-1)
    by_hand = hidden[0, -1] @ model.lm_head.weight.T
assert torch.equal(moves > 0, torch.ones(6, 6, dtype=torch.bool).tril()), "row: position, column: changed token"
assert (moves[0, 1:] == 0).all() and (moves[-1] > 1e-6).all()
assert (by_hand - model(token_ids)[0, -1]).abs().max() < 1e-12
print("position 0 moves when these tokens change:", (moves[0] > 0).nonzero().flatten().tolist())
print("position 5 moves when these tokens change:", (moves[5] > 0).nonzero().flatten().tolist())
print("lm_head times the vector at position 5 is the last row of the logits")

# %% [markdown]
# The vector you are looking for is the *hidden state at the last position of the question*, that of ？. It is the only
# one that has read everything, and the logits for the first word of the answer are made from it and from nothing else.
# 去 is drawn from these logits afterwards. Its embedding is a row of a table, the same in every sentence.

# %% [markdown]
# ## The loss: how surprised is the model?
#
# A model that gives probability p to what then happens is surprised by $-\ln p$ nats. Certainty costs nothing, a coin
# toss 0.69, and the price of being sure and wrong has no limit.

# %% name="surprise_by_hand" tags=["compare"]
share = torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 8])
surprise = -share.log()
print("p       ", share.tolist())
print("-ln p   ", [round(number, 3) for number in surprise.tolist()])
print(f"the right tokens are 0 and 1: mean {surprise[:2].mean():.4f} nats = 1.5 ln 2")
assert surprise[:2].mean().isclose(torch.tensor(1.5 * math.log(2)))

p = torch.linspace(0.005, 1, 200)
figure, (axes,) = plots.new_figure(width=5.2, height=2.8)
plots.line_chart(axes, {"surprise": (p, -p.log())}, "What a token costs", "probability it was given", "nats")
axes.plot(share, surprise, "o", color=plots.COLOURS[3])
plots.show(figure, alt="The surprise falls from above 5 nats at a probability near 0 to 0 nats at a probability of 1")

# %% [markdown]
# The loss of a language model is the mean of that over all tokens. Formally it is the cross-entropy between what
# happened and what was predicted:
#
# $$\mathcal{L} = -\frac{1}{n} \sum_{t\,:\,y_t \ne -100} \ln \mathrm{softmax}(z_t)_{y_t}$$
#
# with logits $z_t$, targets $y_t$, and n the number of targets that count. Padding does not count: its target is −100.

# %% exercise="layers.loss.cross_entropy"

# %% [markdown]
# ### What does a fresh model pay?
#
# It has learned nothing, so it should give each of the 128 tokens the same chance.
#
# **Predict.** What is its loss? And does it matter how large the embedding is at the start?

# %%
guess_loss = None  # nats a token

# %% name="the_first_loss" tags=["compare"]
from minillm.text import batches
from minillm.text.stories.split import validation_rows

rows = validation_rows(language, 24, seed=0)
inputs, targets = batches.shift_rows(rows, language.tokenizer.pad_id)
designs = {
    "embedding 0.02, tied head": {"init": Init(0.02, 0.02, "scaled")},
    "embedding 0.1,  head of its own": {"init": Init(0.1, 0.02, "scaled"), "tie_embeddings": False},
    "embedding 0.1,  tied head": {"init": Init(0.1, 0.02, "scaled")},
}
log_v = math.log(tiny.vocab_size)
print(f"ln {tiny.vocab_size} = {log_v:.2f} - you said {guess_loss}")
first_losses = {}
for name, changes in designs.items():
    with torch.no_grad():
        made = [GPT(replace(tiny, **changes), torch.Generator().manual_seed(seed)) for seed in range(5)]
        first_losses[name] = [float(cross_entropy(one(inputs), targets)) for one in made]
    print(f"{name:32s} {min(first_losses[name]):.1f} to {max(first_losses[name]):.1f} nats in five seeds")
calm, own_head, tied = first_losses.values()
assert all(abs(loss - log_v) < 0.3 for loss in calm + own_head), "near ln V"
assert min(tied) > log_v + 2, "far above it"

# %% [markdown]
# The first two are as they should be: about ln V, and that is the first number to look at in any training run. A first
# loss far from ln V is a bug, or a design that deserves a closer look.
#
# The third is such a design. Nothing is broken. The head is the embedding itself, and a fresh model has hardly moved
# the vector away from the embedding of the token it has just read. So what does it predict?

# %% name="a_fresh_tied_model_repeats" tags=["compare"]
with torch.no_grad():
    logits = GPT(tiny, torch.Generator().manual_seed(0))(inputs)
repeats = logits.softmax(-1).gather(-1, inputs[..., None])[..., 0]
top = logits.argmax(-1) == inputs
real = targets != -100
assert top[real].double().mean() > 0.95 and repeats[real].mean() > 0.8
own_logit = logits.gather(-1, inputs[..., None])[..., 0][real].mean().item()
assert abs(own_logit - 0.1 * 128 / math.sqrt(2)) < 0.3
print(f"logit of the token just read: {own_logit:.1f}; of all others on average 0.0")
print(f"share of positions where its favourite is the token just read: {top[real].double().mean():.0%}")

# %% [markdown]
# It predicts a repetition. The logit of the token just read is its embedding times the normalized stream, which is that
# same embedding plus a position of the same size: about $0.1 \cdot 128 / \sqrt{2} = 9.05$, while the logits of all
# other tokens scatter around 0. So the loss is not 4.85 but near 9. Training unlearns this within the first steps. (Why
# start so large, then? Try 0.02 in the training below, and see how long it takes.)

# %% [markdown]
# ## Fresh weights
#
# Why not zeros? Because then all features would be equal and stay equal. Why not large numbers? Because the stream is a
# *sum*: a model of L blocks adds 2L answers to it. If these are independent, their variances add up, and the sum is
# $\sqrt{2L}$ times as large as one of them. GPT-2 makes the last matrix of each branch smaller by just that factor.

# %% exercise="model.init.init_weights"

# %% [markdown]
# **Predict.** Two models of 6 and of 48 blocks, without the factor. By how much is the stream of the deeper one longer
# at the end? And with the factor?

# %%
guess_ratio_plain, guess_ratio_scaled = None, None

# %% [markdown]
# The cell builds models with *your* function and records the root mean square of the stream after each block. Tokens
# are random; five seeds for each depth.

# %% name="stream_of_a_fresh_model"
from minillm.config import Mlp
from minillm.layers.recorder import record

narrow = replace(
    tiny, d_model=32, n_heads=1, n_kv_heads=1, head_dim=32, ffn=Mlp(128, "gelu"), max_seq_len=16)
some_ids = torch.randint(128, (4, 16), generator=torch.Generator().manual_seed(0))


def stream_sizes(n_layers, residual, seed):
    """The root mean square of the stream before and after each block of a fresh model."""
    config = replace(narrow, n_layers=n_layers, init=Init(0.7, 0.18, residual))
    with mine.active():  # inside, the package calls your init_weights
        fresh = GPT(config, torch.Generator().manual_seed(seed))
    with record() as tape, torch.no_grad():
        fresh(some_ids)
    return [float(x.square().mean().sqrt()) for x in tape["residual"]]

# %% name="residual_stream_growth" tags=["compare"]
depths, seeds = (6, 24, 48), range(5)
ends = {
    kind: {depth: [stream_sizes(depth, kind, seed)[-1] for seed in seeds] for depth in depths}
    for kind in ("plain", "scaled")
}
print(f"you said {guess_ratio_plain} and {guess_ratio_scaled}")
for kind, by_depth in ends.items():
    ratios = [deep / shallow for deep, shallow in zip(by_depth[48], by_depth[6], strict=True)]
    print(f"{kind:6s}: at the end of 48 blocks the stream is {min(ratios):.1f} to {max(ratios):.1f} times that of 6")
    assert min(ratios) > 2 if kind == "plain" else 0.8 < min(ratios) and max(ratios) < 1.25

figure, (left, right) = plots.new_figure(2, width=9.2, height=3.3)
curves = {kind: (range(49), stream_sizes(48, kind, 0)) for kind in ("plain", "scaled", "zero")}
plots.line_chart(left, curves, "A model of 48 blocks, one seed", "after block", "root mean square of the stream")
middle = {kind: (depths, [sorted(by_depth[depth])[2] for depth in depths]) for kind, by_depth in ends.items()}
plots.line_chart(right, middle, "At the end, median of five seeds", "number of blocks", "root mean square")
right.set_xticks(depths)
for axes in (left, right):
    axes.set_ylim(0)
plots.show(figure, alt="Without scaling the stream grows with depth; scaled or zero branches keep it at its size")

# %% [markdown]
# Without the factor the stream grows like the root of the depth ($\sqrt{48 / 6} = 2.8$), as a sum of independent terms
# does. At the end of a deep model it is many times the embedding that it began with: each block's answer is a
# smaller and smaller share of it, and what the token was is drowned. With the factor the depth no longer matters. The
# third choice, zero, lets each block start as the identity; the tiny GPT uses it.

# %% [markdown]
# ## Count it before you build it
#
# An interviewer who says *12 L D²* wants to see whether you know where it comes from. You will count exactly, from the
# configuration alone: first a block, then the model.

# %% name="what_a_configuration_says" tags=["compare"]
for name in ("gpt2", "llama-7b"):
    c = preset(name)
    print(f"{name}: d_model {c.d_model}, {c.n_layers} layers, {c.n_heads} heads of {c.head_dim}, "
          f"{c.n_kv_heads} for keys and values")
    print(f"  {c.ffn}\n  {c.norm}, {c.position}, tied head: {c.tie_embeddings}\n  {c.attention}")

# %% exercise="model.counting.block_parameters"

# %% exercise="model.counting.count_parameters"

# %% [markdown]
# Does it agree with a model that is really built? And where are the weights of models that you could not build here?

# %% name="counted_and_built" tags=["compare"]
built = GPT(tiny)
assert count_parameters(tiny)["total"] == sum(parameter.numel() for parameter in built.parameters())
print(f"the tiny GPT: {count_parameters(tiny)['total']:,} weights, counted and built alike")

shares = {}
for name in ("tiny", "gpt2", "llama-7b", "gpt3"):
    counts = count_parameters(preset(name))
    total = counts["total"]
    table = counts["embedding"] + counts["position"] + counts["lm_head"]
    parts = {"tables": table, "attention": counts["attention"], "FFN": counts["ffn"], "norms": counts["norm"]}
    shares[name] = {part: 100 * number / total for part, number in parts.items()}
    print(f"{name:9s} {total:>15,}")
figure, (axes,) = plots.new_figure(width=7.6, height=3.2)
stacked_bars(axes, shares, "Where the weights are", "per cent")
axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=4, fontsize=9, frameon=False)
plots.show(figure, alt="Of each model's weights FFN takes the largest share; tables matter only in small models")

# %% [markdown]
# ### The GPT series
#
# Between the first and the third GPT the architecture hardly changed. GPT-1 is post-norm (so it has no final norm),
# with 40,478 tokens and 512 positions. From GPT-2 on the norms stand inside the branches. The rest is size, and another
# way of using it: GPT-1 was fine-tuned for each task, GPT-2 and GPT-3 were not.

# %% name="gpt_sizes_counted" tags=["compare"]
wide = Mlp(4 * 1600, "gelu_tanh", bias=True)
series = {
    "GPT-1": preset("gpt2", vocab_size=40478, max_seq_len=512, residual="post"),
    "GPT-2": preset("gpt2"),
    "GPT-2 XL": preset("gpt2", n_layers=48, d_model=1600, n_heads=25, n_kv_heads=25, ffn=wide),
    "GPT-3": preset("gpt3"),
}
totals = {name: count_parameters(config)["total"] for name, config in series.items()}
for name, config in series.items():
    rule = 12 * config.n_layers * config.d_model**2
    print(f"{name:9s} {totals[name]:>15,}   12 L D^2 = {rule:>15,}")
assert list(totals.values()) == [116_534_784, 124_439_808, 1_557_611_200, 174_604_259_328]
assert 12 * 96 * 12288**2 == 173_946_175_488

# %% [markdown]
# ### LLaMA, exactly
#
# **Predict.** An MLP has two matrices, LLaMA's gated FFN three. How wide may it be, so that it has as many weights as
# an MLP of width 4 D? For D = 4096, what would you choose if widths should be multiples of 256?

# %%
guess_width = None

# %% name="llama_7b_counted" tags=["compare"]
llama = preset("llama-7b")
V, D, L, F = llama.vocab_size, llama.d_model, llama.n_layers, llama.ffn.d_ff
formula = 2 * V * D + L * (4 * D**2 + 3 * D * F + 2 * D) + D
assert formula == count_parameters(llama)["total"] == 6_738_415_616
untied = formula - count_parameters(replace(llama, tie_embeddings=True))["total"]
assert untied == V * D == 131_072_000

exact = 8 * D // 3
rounded_up = -(-exact // 256) * 256
assert (exact, rounded_up, rounded_up / D) == (10_922, F, 2.6875)
print(f"LLaMA-7B: {formula:,} weights, of which a head of its own costs {untied:,}")
print(f"8/3 D = {exact:,}, as a multiple of 256: {rounded_up:,} - you said {guess_width}")

# %% [markdown]
# ### Four families, four formulas
#
# If you can write the formula, you know the architecture. For the encoder and the encoder-decoder, derive them:
#
# **BERT-base**: tables for V tokens, 512 positions and 2 segments, and a LayerNorm after them (2 D). A block is
# GPT-2's: 12 D² for the matrices, 9 D for their biases (4 D in attention, 4 D + D in the FFN), 4 D for two LayerNorms:
# together 12 D² + 13 D. On top a *pooler*, one D × D matrix with bias.
#
# **T5-small**: one table for both stacks, no biases, norms with a weight only. An encoder layer has attention (4 D²),
# an FFN (2 D F) and two norms. A decoder layer has a second attention, for the source (8 D² together), and three norms.
# Each stack ends with a norm, and each has one table of position biases: 32 distances for each of H heads.

# %% name="four_families_counted" tags=["compare"]
V, D, L, positions_and_segments = 30522, 768, 12, 512 + 2
bert = (V + positions_and_segments) * D + 2 * D + L * (12 * D**2 + 13 * D) + D**2 + D

V, D, F, L, H = 32128, 512, 2048, 6, 8
encoder = L * (4 * D**2 + 2 * D * F + 2 * D) + D + 32 * H
decoder = L * (8 * D**2 + 2 * D * F + 3 * D) + D + 32 * H
t5 = V * D + encoder + decoder

families = {
    "BERT-base, an encoder": (bert, 109_482_240),
    "GPT-2, a decoder": (count_parameters(preset("gpt2"))["total"], 124_439_808),
    "T5-small, an encoder-decoder": (t5, 60_506_624),
    "LLaMA-7B, a decoder": (count_parameters(preset("llama-7b"))["total"], 6_738_415_616),
}
for name, (counted, published) in families.items():
    assert counted == published, name
    print(f"{name:30s} {counted:>13,}")

# %% [markdown]
# ### What a token costs
#
# Weights are what a model needs in memory. What it needs in work is counted in floating-point operations. A vector
# times a matrix uses each weight once, for one multiplication and one addition. The products with the keys come on top:
# they have no weights, but they grow with the text.

# %% exercise="model.counting.flops_per_token"

# %% name="parameters_and_flops_by_rule_of_thumb" tags=["compare"]
from torch.utils.flop_counter import FlopCounterMode

from minillm.layers import paths

gpt2 = preset("gpt2")
rule = 12 * gpt2.n_layers * gpt2.d_model**2 + gpt2.vocab_size * gpt2.d_model
true = count_parameters(gpt2)["total"]
assert (rule, true) == (123_532_032, 124_439_808) and round(100 * (rule / true - 1), 2) == -0.73
print(f"GPT-2: 12 L D^2 + V D = {rule:,}, exactly {true:,}: {rule / true - 1:+.2%}")

flops = flops_per_token(gpt2, kv_len=1024)
assert flops["matrices"] == 24 * 12 * 768**2 == 169_869_312 and flops["attention"] == 37_748_736
assert flops["attention"] / flops["matrices"] == 1024 / (6 * 768)
print(f"a token at 1024 keys: matrices {flops['matrices']:,}, products with keys {flops['attention']:,} "
      f"({flops['attention'] / flops['matrices']:.0%})")

seq_len = 60
with paths.plain_path(), FlopCounterMode(display=False) as counter, torch.no_grad():
    built(torch.zeros(1, seq_len, dtype=torch.int64))
measured, computed = counter.get_total_flops(), seq_len * flops_per_token(tiny, seq_len)["total"]
assert measured == computed
print(f"the tiny GPT on {seq_len} tokens: {measured:,} operations, counted while it ran and by your function")

# %% [markdown]
# A rule for the pocket: a forward pass costs 2 operations a weight and token, a training step three times that (the
# backward pass costs about twice the forward).
#
# ### Explore
#
# Move the sizes. What does sharing keys and values change, and what does it not? At which vocabulary do the tables
# outweigh a small model? How much of the memory is the training's?

# %% name="model_explorer"
from minillm.course.scenes.model_explorer import model_controls, sizes_picture
from minillm.course.widgets import Explorer

Explorer(
    sizes_picture,
    alt="Three bars for a model of width 1024 with 16 layers: weights, mostly FFN; operations a token; memory, of "
    "which training needs by far the most",
    **model_controls(),
)

# %% [markdown]
# ## Too good to be true
#
# Before the real training, a short one. Somebody has handed you a function that makes inputs and targets from stories.
# It is used here for 25 steps. You know something that most people who train models do not know: the entropy of this
# language, 22.7 nats a story, below which *no* model can get.

# %% name="too_good_to_be_true" tags=["compare"]
from minillm.course.lessons.lesson_07.shifting import found_in_the_wild
from minillm.inference.evaluate import sample_stories
from minillm.inference.generate import generate
from minillm.text.stories.split import train_rows
from minillm.training.callbacks import History
from minillm.training.loop import train
from minillm.training.recipe import Recipe

generator = torch.Generator().manual_seed(0)
suspect = GPT(tiny, generator)
odd_batches = (
    found_in_the_wild(train_rows(language, 16, generator), language.tokenizer.pad_id) for _ in range(25))
history = History()
train(suspect, odd_batches, Recipe(dtype="fp32"), steps=25, callbacks=[history])

tokens_a_story = float((targets != -100).sum()) / len(targets)
floor = language.entropy() / tokens_a_story
loss = history.steps[-1]["loss"]
assert loss < 0.1 * floor, "far below what is possible"
print(f"floor: {floor:.2f} nats a token; loss after 25 steps: less than {math.ceil(100 * loss) / 100:.2f}")
prompt = torch.tensor([language.tokenizer.encode("Once upon a time Mia")])
told = language.tokenizer.decode(generate(suspect, prompt, 7, temperature=0.0)[0].tolist())
print(f"and this is what it tells: {told}")

# %% [markdown]
# A loss below the floor is no success. It is a proof that the model sees what it should predict.

# %% exercise="text.batches.shift_rows"

# %% [markdown]
# This is one of the most frequent bugs of all, and it comes in both directions. Some libraries shift inside the model,
# some expect you to shift; do both and the model learns to skip a word. The defence is cheap: know the floor, or at
# least know that the loss of a text model does not fall to 0.

# %% [markdown]
# ## Your code becomes the model
#
# Everything is there. Inside `mine.active()` the package calls *your* functions: those of this lesson, and those of the
# lessons before that you have passed. Where you have written none, the course's own runs, and the table afterwards says
# whose code it was. No fused kernels in here, only what the lessons build.
#
# The model has two blocks and is trained on stories that it never sees twice. Every 10 steps it is asked about 24
# stories that it does not train on, and its surprise is split in two: what it pays for words that are a free choice of
# the teller (which friend? which place?), and what it pays for words that it should *remember*, like the friend's name
# the second time.
#
# **Predict.** Both parts fall. Together, or one after the other?

# %%
guess_order = None  # "together", "choices first", "memory first"

# %% name="training_on_your_functions"
from minillm.course.scenes.copy_watch import CopyWatch


def endless_stories(generator):
    while True:
        yield batches.story_batch(language, 16, generator)


generator = torch.Generator().manual_seed(0)
config = replace(tiny, init=Init(embedding_std=0.1, linear_std=0.05, residual="zero"))
recipe = Recipe(learning_rate=3e-3, warmup_steps=30, decay_share=0.4, dtype="fp32")
with mine.active():
    model = GPT(config, generator)
    watch = CopyWatch(model, language, every=10, n_stories=24)
    train(model, endless_stories(generator), recipe, steps=240, callbacks=[watch])

# %% name="whose_code_ran" tags=["compare"]
mine.table()

# %% name="the_transition"
before, after = watch.looks[8], watch.looks[-1]
choices = [look["story"] - look["remembered"] for look in (before, after)]
entropy = language.entropy()
print(f"you said {guess_order!r}")
for look, paid in zip((before, after), choices, strict=True):
    print(f"step {look['step']:3d}: choices {paid:.0f} nats (floor {entropy:.1f}), to be remembered "
          f"{look['remembered']:.0f} nats (floor 0), attention to the word to be copied {look['finding']:.2f}")
assert choices[0] < 1.35 * entropy, "the choices are nearly paid for"
assert before["remembered"] > 10 and after["remembered"] < 3
assert before["finding"] < 0.25 and after["finding"] > 0.5

# %% [markdown]
# First the grammar is learned, fast: which kind of word follows which. Then progress is slow. The model knows that a
# name comes now, and guesses which. The right panel tells why: no head looks back at the place where the name was said.
# When heads learn that, the price of what was to be remembered falls quickly, to almost nothing. Such a pair of heads
# is known as an *induction head* (Olsson et al. 2022). It is a mechanism, not a gradual improvement, and it shows as a
# bend in the loss curve. Which head finds which word differs from seed to seed.
#
# ### Is it telling stories?
#
# The checker of the story language reads them word by word, and says where and why a text is no story.

# %% name="stories_judged"
with mine.active():
    told = sample_stories(model, language, 100, generator=torch.Generator().manual_seed(5))
verdicts = [language.check(story) for story in told]
valid = sum(verdict.ok for verdict in verdicts)
print(f"{valid} of {len(told)} are stories\n")
for story, verdict in list(zip(told, verdicts, strict=True))[:3]:
    print(story, f"\n   -> {'a story' if verdict.ok else verdict.why}\n")
assert valid >= 50

# %% [markdown]
# ## One block, several masks
#
# GPT, BERT, T5, GLM and XLNet are made of the block that you have just written. What tells them apart is who may see
# whom, and what they are asked. Take 16 tokens, the first 8 of them the source or the prompt.

# %% name="one_block_four_masks" tags=["compare"]
n, n_source = 16, 8
places = torch.arange(n)
encoder_decoder = torch.zeros(n, n, dtype=torch.bool)
encoder_decoder[:, :n_source] = True  # the encoder sees the source, and the decoder sees it by cross-attention
encoder_decoder[n_source:, n_source:] = masks.causal_mask(places[:8], places[:8])
sights = {
    "BERT: encoder": masks.bidirectional_mask(places, places),
    "GPT: decoder": masks.causal_mask(places, places),
    "GLM: prefix LM": masks.prefix_mask(places, places, n_source),
    "T5: encoder-decoder": encoder_decoder,
}
x = torch.randn(1, n, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
for name, mask in sights.items():
    table = dependency_table(lambda h, mask=mask: block_forward(h, **fresh_parts(64, mask)), x)
    assert torch.equal(table > 0, mask), "an output moves exactly where the mask lets it see"
    print(f"{name:20s} {int(mask.sum())} visible pairs; row 0 moves with token 7: {bool(table[0, 7] > 0)}, "
          f"with token 15: {bool(table[0, 15] > 0)}")
assert [int(mask.sum()) for mask in sights.values()] == [256, 136, 164, 64 + 36 + 64]
assert torch.equal(sights["GLM: prefix LM"], encoder_decoder)
plots.show(mask_gallery(sights), alt="Four masks of 16 by 16: full; a triangle; twice a triangle with a full source")

# %% [markdown]
# The last two are the same picture. A prefix LM and an encoder-decoder see exactly as much; the second uses other
# weights for the source than for the answer.
#
# ### BERT: hide and restore
#
# Everything is visible, so predicting the next token would be too easy. BERT hides tokens and asks for them. Of the 15
# % that are chosen, 80 % become a mask symbol, 10 % another word and 10 % stay.

# %% name="mask_eighty_ten_ten" tags=["compare"]
from minillm.text.corruption import corrupt_spans, mask_tokens, random_spans

MASK = 30522
token_ids = torch.randint(MASK, (1_000_000,), generator=torch.Generator().manual_seed(0))
corrupted, targets = mask_tokens(token_ids, MASK, MASK, torch.Generator().manual_seed(1))
chosen = targets != -100
became = {
    "the mask symbol": (corrupted == MASK, 0.12),
    "another word": ((corrupted != token_ids) & (corrupted != MASK), 0.015),
    "itself, but asked for": ((corrupted == token_ids) & chosen, 0.015),
    "(any of these: has a loss)": (chosen, 0.15),
}
for name, (where, expected) in became.items():
    share = where.double().mean().item()
    assert abs(share - expected) < 0.002
    print(f"{name:27s} {share:.3f} of all tokens")
assert torch.equal(corrupted[~chosen], token_ids[~chosen])

# %% [markdown]
# Why not the mask symbol always? Because it never occurs later, when the model is used. A token that stayed looks like
# one that was never chosen, so the model has to think about every position.
#
# Only 15 % of the positions have a loss. A causal model has one at each, and that is one of the reasons why large
# models are causal.
#
# ### RoBERTa: the same, masked anew each time
#
# RoBERTa keeps the architecture. It drops the second objective (do two segments belong together?), takes more data,
# larger batches and 50,265 byte-level tokens, and draws its masks afresh each time a text is read. BERT had stored
# every text with ten different masks and read each four times. How many tokens are ever asked for?

# %% name="static_and_dynamic_masking" tags=["compare"]
text = torch.zeros(40, 100_000, dtype=torch.int64)
_, asked = mask_tokens(text, 1, 1, torch.Generator().manual_seed(0))
asked = asked != -100
for n_masks, who in ((1, "one mask for ever"), (10, "BERT: ten masks"), (40, "RoBERTa: a new one in each epoch of 40")):
    ever = asked[:n_masks].any(0).double().mean().item()
    assert abs(ever - (1 - 0.85**n_masks)) < 0.005
    print(f"{who:40s} asked for at least once: {ever:.2%}, by the formula {1 - 0.85**n_masks:.2%}")
more = (50_265 - 30_522) * 768
assert more == 15_162_624
print(f"the larger vocabulary costs {more:,} more weights at d_model 768")

# %% [markdown]
# ### T5: cut out spans, write them down
#
# T5 has an encoder that reads a text with holes, and a decoder that writes what was in them. First a story, then the
# lengths for 512 tokens.

# %% name="a_story_with_holes" tags=["compare"]
from minillm.text.words import join_words, split_words

story = language.tokenizer.decode(rows[0].tolist())
words = split_words(story)
spans = random_spans(len(words), torch.Generator().manual_seed(3))
holes = [f"<{number}>" for number in range(len(spans) + 1)]
reads, writes = corrupt_spans(words, spans, holes)
print("the encoder reads:  ", join_words(reads))
print("the decoder writes: ", join_words(writes))

# %% name="span_corruption_lengths" tags=["compare"]
T = 512
spans = random_spans(T, torch.Generator().manual_seed(0))
reads, writes = corrupt_spans(range(T), spans, range(T, T + len(spans) + 1))
n_cut, n_spans = sum(end - start for start, end in spans), len(spans)
assert (n_cut, n_spans) == (round(0.15 * T), round(77 / 3)) == (77, 26)
assert len(reads) == T - n_cut + n_spans == 461 and len(writes) == n_cut + n_spans + 1 == 104
assert sorted(token for token in reads + writes if token < T) == list(range(T)), "nothing is lost"
print(f"{T} tokens: {n_cut} are cut out, in {n_spans} spans")
print(f"the encoder reads {len(reads)}, the decoder writes {len(writes)}: {len(writes) / T:.0%} of what a GPT predicts")

# %% [markdown]
# ### GLM: write into the blanks
#
# GLM does the same with one stack. Part A is the text with blanks, visible in both directions; part B holds the missing
# spans in shuffled order, written causally with all of A in view. Here A has 6 tokens with blanks at places 2 and 4,
# and two spans of 2 follow, that of the second blank first.

# %% name="glm_mask_by_perturbation" tags=["compare"]
n_a, blanks, span_len = 6, [4, 2], 2
places = torch.arange(n_a + len(blanks) * span_len)
glm_mask = masks.prefix_mask(places, places, n_a)
x = torch.randn(1, len(places), 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
table = dependency_table(lambda h: block_forward(h, **fresh_parts(64, glm_mask)), x)
assert torch.equal(table > 0, glm_mask) and int(glm_mask.sum()) == 70
assert (table[:n_a, n_a:] == 0).all(), "nothing in A depends on B"
moved_rows = (table[:, 8] > 0).nonzero().flatten().tolist()
assert moved_rows == [8, 9]
print(f"{int(glm_mask.sum())} visible pairs; changing place 8, the start of the second span, moves rows {moved_rows}")

first = [*range(n_a), *(blank for blank in blanks for _ in range(span_len))]
second = [0] * n_a + [*range(1, span_len + 1)] * len(blanks)
assert first == [0, 1, 2, 3, 4, 5, 4, 4, 2, 2] and second == [0, 0, 0, 0, 0, 0, 1, 2, 1, 2]
print("first position: ", first, " where in A (for a span: its blank)")
print("second position:", second, " where in the span")

# %% [markdown]
# The mask is nothing new: it is the prefix mask. What is new are the two positions of each token. A span keeps the
# place of its blank for all its tokens, so the model cannot see in advance how long it will be.
#
# ### XLNet: any order
#
# GPT predicts from left to right. But a text can be predicted in any order, and if many orders are used, each word is
# predicted from both sides, without a mask symbol. The text is *not* shuffled. Only the mask follows the order.

# %% exercise="layers.permutation.permutation_mask"

# %% [markdown]
# There is a catch. A vector that is to predict token 3 must know *that it is about place 3*, and must not know the
# token. The vectors that others read must know the token. So XLNet runs two streams: **content** h (place and word,
# sees itself) and **query** g (place only, does not see itself, reads from h).
#
# **Predict.** The order is [2, 0, 3, 1]. You change word 3. Which rows of h move, and which of g?

# %%
guess_content, guess_query = None, None  # lists of places

# %% name="permutation_mask_and_two_streams" tags=["compare"]
order = torch.tensor([2, 0, 3, 1])
content_mask, query_mask = permutation_mask(order, sees_itself=True), permutation_mask(order, sees_itself=False)
generator = torch.Generator().manual_seed(0)
w = [torch.randn(64, 64, generator=generator, dtype=torch.float64) / 8 for _ in range(4)]
where, word = (torch.randn(1, 4, 64, generator=generator, dtype=torch.float64) for _ in range(2))


def two_streams(word):
    content, query = word + where, where
    for _ in range(2):  # two layers with the same weights
        read = multi_head.cross_attention(query, content, *w, n_heads=4, mask=query_mask)
        content = content + multi_head.multi_head_attention(content, *w, n_heads=4, mask=content_mask)
        query = query + read
    return content, query


for stream, (name, mask, guess) in enumerate((
    ("content", content_mask, guess_content), ("query", query_mask, guess_query))):
    table = dependency_table(lambda h, stream=stream: two_streams(h)[stream], word)
    assert torch.equal(table > 0, mask) and (name == "content" or (table.diagonal() == 0).all())
    print(f"{name:7s} stream: word 3 moves rows {(table[:, 3] > 0).nonzero().flatten().tolist()} - you said {guess}")

# %% name="a_mask_for_any_order" tags=["compare"]
assert content_mask[:, 3].nonzero().flatten().tolist() == [1, 3]
assert query_mask[:, 3].nonzero().flatten().tolist() == [1]
labels = [f"{place} ({'first second third last'.split()[order.tolist().index(place)]})" for place in range(4)]
figure = mask_gallery({"content stream": content_mask, "query stream": query_mask}, labels, width=6.4)
plots.show(figure, alt="The masks of both streams for the order 2, 0, 3, 1; the second one has an empty diagonal")

# %% [markdown]
# Row 2 of the query stream is empty: the place that comes first is predicted from nothing. *Autoregressive* is meant in
# this sense, over random orders. It makes XLNet an encoder that sees both sides, not a better writer.

# %% [markdown]
# ### What each is for
#
# Masks are not an end in themselves. Take texts that are **echoes**: eight random symbols out of twelve, then the same
# eight again. One symbol is hidden in the *first* half. To the left of it there is nothing that tells; the answer
# stands eight places further on.
#
# **Predict.** How many nats does a trained GPT lose on that symbol, if ln 12 = 2.485 is a pure guess? How many a
# trained BERT?

# %%
guess_gpt, guess_bert = None, None  # nats

# %% [markdown]
# Seven models of the same size, made of the same blocks, each trained for three hundred steps on what its family
# predicts: the next symbol (GPT-2, LLaMA), hidden symbols (BERT), a translation (the first Transformer: the symbols
# backwards, each one number up), what was cut out (T5, GLM), or all symbols in random order (XLNet). Three runs each;
# the numbers are stored with the command that made them.

# %% name="families_stored" tags=["compare"]
from minillm.bench import results
from minillm.course.tables import Table

stored = results.load_table("families")
measures = ("hole", "echo", "translation")
losses = {row["name"]: row["values"] for row in stored["rows"]}


def worst_and_best(values):
    return f"{min(values):.2f} .. {max(values):.2f}" if values else "-"


print(stored["command"])
print(Table(("nats a symbol", *(f"{m:12s}" for m in measures)), tuple(
    (name, *(worst_and_best(values.get(m)) for m in measures)) for name, values in losses.items())))
for name, values in losses.items():
    looks_ahead = "decoder)" not in name or "encoder" in name
    assert all((loss < 0.2) == looks_ahead for loss in values.get("hole", [])), name
    assert max(values.get("echo", [0]) + values.get("translation", [0])) < 0.2, name
assert min(losses["GPT-2 (decoder)"]["hole"] + losses["LLaMA (decoder)"]["hole"]) > 0.97 * math.log(12)

# %% [markdown]
# The decoders write the echo without a mistake and can do no more than guess at the hole. All that see both sides fill
# it. XLNet can do both: its order of prediction is free. But for that it learned to predict in every order, and a text
# has many. Train the one with a prefix yourself, from another seed:

# %% name="families_again"
from minillm.bench.variants import families

again = families.measure_family(families.FAMILIES["GLM (prefix LM)"], seed=7)
assert again["hole"] < 0.2
print(f"GLM, trained here: {again['hole']:.3f} nats on a hidden symbol; a guess costs {math.log(12):.3f}")

# %% [markdown]
# ## Myth and measurement
#
# Two sentences that are often said in interviews. *An LLM consists of encoder and decoder layers.* And: *LLMs are
# usually built on RNNs such as LSTM or GRU.* The first comes from the famous picture of 2017, which shows a translator.
# The second from the fact that text is written one token after the other. Look at what is in the model that you
# trained.

# %% name="decoder_blocks_and_nothing_else" tags=["compare"]
from minillm.layers.attention import Attention

kinds = [type(module).__name__ for module in model.modules()]
n_attention = sum(isinstance(module, Attention) for module in model.modules())
n_recurrent = sum(isinstance(module, nn.RNNBase) for module in model.modules())
assert n_attention == model.config.n_layers and n_recurrent == 0
print({kind: kinds.count(kind) for kind in sorted(set(kinds))})
print(f"{n_attention} attention modules in {model.config.n_layers} blocks; an encoder-decoder of that depth would have "
      f"{3 * model.config.n_layers}, a third of them for the source")

rule = 12 * llama.n_layers * llama.d_model**2 + 2 * llama.vocab_size * llama.d_model
true = count_parameters(llama)["total"]
assert (rule, true) == (6_704_594_944, 6_738_415_616) and round(100 * (rule / true - 1), 2) == -0.50
print(f"LLaMA-7B by the rule for decoder blocks, 12 L D^2 + 2 V D: {rule:,}, {rule / true - 1:+.2%}")

# %% [markdown]
# A recurrent network has to compute its states one after another: each needs the one before. In a causal block, each
# row needs the *inputs* of the rows before it, and these are all there at once. So the rows can be computed in any
# order, or together.

# %% name="rows_wait_for_no_other_row" tags=["compare"]
places = torch.arange(16)
parts = fresh_parts(64, masks.causal_mask(places, places))
x = torch.randn(1, 16, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
whole = block_forward(x, **parts)
alone = torch.zeros_like(x)
for t in torch.randperm(16, generator=torch.Generator().manual_seed(2)).tolist():
    seen = places[: t + 1]  # a row by itself: the block's input up to there, and nothing else
    alone[:, t] = block_forward(x[:, : t + 1], **fresh_parts(64, masks.causal_mask(seen, seen)))[:, -1]
assert (alone - whole).abs().max() < 1e-10
print("sixteen rows, computed in a random order: the same as all at once")

places = torch.arange(256)
for seed in range(3):
    torch.manual_seed(seed)
    lstm = nn.LSTM(64, 64, batch_first=True).double()
    two_blocks = [fresh_parts(64, masks.causal_mask(places, places), seed=seed + 10 * layer) for layer in range(2)]
    x = torch.randn(1, 256, 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, requires_grad=True)
    (through_lstm,) = torch.autograd.grad(lstm(x)[0][0, -1].sum(), x)
    y = block_forward(block_forward(x, **two_blocks[0]), **two_blocks[1])
    (through_blocks,) = torch.autograd.grad(y[0, -1].sum(), x)
    ours, theirs = through_blocks[0, 0].norm(), through_lstm[0, 0].norm()
    assert ours > 1e-3 and ours > 100 * theirs
    print(f"256 tokens later, token 0 gets a gradient of {ours:.1f} through two blocks, {theirs:.0e} through an LSTM")

# %% [markdown]
# The smallest number above 0 in float32 is about 1e-45: in ordinary precision the LSTM's gradient would be exactly 0.
# Both are fresh, untrained networks. A trained LSTM with open forget gates carries its gradient further, but it still
# has 256 steps to go one by one, and attention has one.
#
# *Writing* is step by step in both. There the cache plays the part of a state, and a cached step gives what the whole
# pass gives:

# %% name="one_pass_or_step_by_step" tags=["compare"]
model.double()
story_ids = rows[:1, :32]
with torch.no_grad():
    at_once = model(story_ids)
    cache = model.new_cache(1, 32)
    steps = [model(story_ids[:, t : t + 1], cache=cache) for t in range(32)]
difference = (torch.cat(steps, dim=1) - at_once).abs().max().item()
assert difference < 1e-10
print(f"32 tokens in one pass or in 32 cached steps: logits {tuple(at_once.shape)}, the same to 1e-10")
print("the cache has grown to", cache[0].length, "keys in each layer; the state of an LSTM stays at one vector")

# %% [markdown]
# ## Interview corner
#
# Answer aloud before you unfold. Each answer names the cell that proves it.

# %% [markdown] interview="07"

# %% [markdown]
# ## Remember
#
# 1. A model is a stream that blocks add to: norm, attention, add; norm, FFN, add. Two thirds of a block is FFN, 12 D²
#    weights in all, 2 operations a weight and token.
# 2. The first loss is ln V (know why if it is not), and no loss is below the entropy: both numbers catch bugs.
# 3. GPT, BERT, T5, GLM, XLNet: one block. What differs is the mask, the question and the positions.
#
# **Where next.** Lesson 08 opens the training loop that you have just used: AdamW, schedules, clipping, precision.
# Lesson 09 is about choosing the next token, lesson 10 about the cache.
