# %% [markdown]
# # 02 Attention
#
# You will build attention: how a word finds the earlier words that it needs. Eight short functions: weights and
# weighted averages, masks, heads, and reading from another sequence. At the end your functions train on stories, and
# you watch a head find the word that is asked for.
#
# | | |
# |---|---|
# | **You need** | lesson 00: broadcasting and softmax; matrix products |
# | **Time** | about 75 minutes for the exercises, as much again for the rest |
# | **Runs on** | any CPU with 2 GB; all cells together about half a minute |
# | **Sources** | Vaswani et al. 2017, *Attention Is All You Need*, sections 3.1 and 3.2 (equation 1) |
# | | Raffel et al. 2020 (T5), section 3.2.1, for the prefix mask |
#
# An exercise is three cells: the task with folded hints, a cell for your function, and a check that tells you which
# mistake you made. You are never blocked: until yours is right, the lesson goes on with the course's own.

# %% [markdown]
# ## Which object?
#
# Here is a story with a gap. You know at once which word is missing, and you know where you looked.

# %% name="which_object"
import math
import random

import torch
import torch.nn.functional as F
from einops import rearrange

from minillm.course import check, hint, mine, plots, reset, solution  # noqa: F401
from minillm.course.scenes.attention_pictures import lookup_picture, story_weights_picture
from minillm.layers import pairwise, softmax  # noqa: F401
from minillm.text.stories import StoryLanguage
from minillm.text.words import split_words

torch.set_num_threads(1)  # these matrices are small: a second thread would only wait for the first
language = StoryLanguage()
story = language.sample(random.Random(8))
words = split_words(story)
thing = language.facts(story)["object"]
places = [i for i, word in enumerate(words) if word == thing]
picture = lookup_picture(words, asked=places[-1], found=places[:-1])
plots.show(picture, alt=f"A story with a gap, and arrows to the gap from the earlier {thing!r}, the missing word")

# %% [markdown]
# The words in between do not help, and how many they are does not matter. What is needed is a *lookup*: from the gap,
# go back to the word that answers the question, and bring its meaning here. Attention is that lookup, made soft, so
# that it can be learned by gradients.
#
# Every token plays three parts:
#
# - its **query** says what it is looking for,
# - its **key** says by what it can be found,
# - its **value** is what it hands over when it is found.

# %% [markdown]
# ## One query, two keys
#
# Take one query and two keys, in the plane, so that you can draw them and do the sum by hand:
#
# $$q = (2, 1), \qquad k_0 = (1, 0), \quad k_1 = (0, 1), \qquad v_0 = (10, 0), \quad v_1 = (0, 10)$$
#
# The **score** of a key is its dot product with the query: large if both point the same way. Softmax turns the scores
# into **weights** that sum to 1, and the output is the average of the values with these weights. (One division is left
# out here; the next section puts it in and says why.)
#
# **Predict.** What weight does key 0 get? Write it down before you run the cell after the next.

# %%
guess = "?"  # the weight of key 0, a number between 0 and 1

# %% name="one_query_two_keys" tags=["compare"]
q = torch.tensor([2.0, 1.0])
keys = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
values = torch.tensor([[10.0, 0.0], [0.0, 10.0]])

two_scores = keys @ q
two_weights = softmax.softmax(two_scores)
output = two_weights @ values
assert output.sum().isclose(torch.tensor(10.0))
print("scores ", two_scores.tolist())
print("weights", [round(weight, 2) for weight in two_weights.tolist()], f"  your guess: {guess}")
print("output ", [round(number, 1) for number in output.tolist()])

figure, (left, right) = plots.new_figure(2, width=7.6, height=3.6)
plots.vector_arrows(left, {"q": q, "k0": keys[0], "k1": keys[1]}, "the query points more to k0")
plots.vector_arrows(right, {"v0": values[0], "output": output, "v1": values[1]}, "so the output lies nearer to v0")
right.plot(values[:, 0], values[:, 1], color=plots.PALE, zorder=0)
left.set(xlim=(-0.2, 2.6), ylim=(-0.2, 2.6))
right.set(xlim=(-1, 13), ylim=(-1, 13))
plots.show(figure, alt="Left: the query between two keys, nearer to k0. Right: the output on the line from v0 to v1")

# %% [markdown]
# By hand: the scores are 2 and 1, and $e^2 / (e^2 + e^1) = 7.39 / 10.11 = 0.73$.
#
# Look at the right picture: the output lies *on the line* between the two values. Attention can only ever give a
# weighted average. It moves information from place to place; it invents none.
#
# With two keys, softmax is the logistic curve, and only the *difference* of the scores counts:

# %% name="only_differences_count" tags=["compare"]
difference = torch.linspace(-8, 8, 81, dtype=torch.float64)
pairs = torch.stack([difference, torch.zeros_like(difference)], dim=-1)
first = softmax.softmax(pairs)[:, 0]
assert torch.allclose(first, torch.sigmoid(difference))
assert torch.allclose(softmax.softmax(pairs + 100.0)[:, 0], first), "the same amount on both scores changes nothing"
for ahead in (0.0, 1.0, 5.0):
    share = torch.sigmoid(torch.tensor(ahead)).item()
    print(f"a score that is ahead by {ahead:.0f} gets {share:.3f}")

figure, (axes,) = plots.new_figure(height=2.8)
plots.line_chart(axes, {"weight of key 0": (difference, first)}, "Softmax of two scores", "score 0 - score 1", "weight")
plots.show(figure, alt="The weight of key 0 rises from 0 to 1 in an S-shaped curve as its score gets ahead of key 1's")

# %% [markdown]
# ## Why the scores are divided by √head_dim
#
# A score that is ahead by 5 takes nearly everything. Scores should therefore be of order 1, at least when training
# begins. Are they? A dot product adds `head_dim` products. If the entries of q and k are independent, with mean 0 and
# variance 1, each product has variance 1, and
#
# $$\mathrm{Var}(q \cdot k) = \sum_{i=1}^{D_h} \mathrm{Var}(q_i k_i) = D_h .$$
#
# So scores grow like $\sqrt{D_h}$, and attention divides by just that (in the papers, $D_h$ is called $d_k$).
#
# **Predict.** One query meets 64 random keys, with `head_dim` 1024, and nobody divides. What weight does the best key
# get, on average? A fair share would be 1/64, about 0.016.

# %%
guess_largest = "?"  # a number between 0 and 1

# %% name="sqrt_head_dim_keeps_softmax_soft"
generator = torch.Generator().manual_seed(0)
largest = {"divided by √head_dim": [], "not divided": []}
head_dims = (16, 64, 256, 1024)
print("head_dim  variance of q·k   largest weight: not divided, divided")
for head_dim in head_dims:
    q = torch.randn(500, head_dim, generator=generator)
    keys = torch.randn(64, head_dim, generator=generator)
    raw = q @ keys.T
    raw_weights, soft_weights = softmax.softmax(raw), softmax.softmax(raw / math.sqrt(head_dim))
    largest["not divided"].append(raw_weights.amax(-1).mean().item())
    largest["divided by √head_dim"].append(soft_weights.amax(-1).mean().item())
    shares = [largest[name][-1] for name in ("not divided", "divided by √head_dim")]
    print(f"{head_dim:8d}  {raw.var():15.0f}  {shares[0]:24.2f}{shares[1]:12.2f}")
    assert abs(raw.var() / head_dim - 1) < 0.1

print(f"\nat head_dim 1024, not divided: {shares[0]:.2f}; your guess: {guess_largest}")
assert abs(shares[0] - 0.95) < 0.02 and abs(shares[1] - 0.11) < 0.01
movable = [(1 - (w * w).sum(-1)).mean().item() for w in (raw_weights, soft_weights)]
print(f"trace of softmax's Jacobian, 1 - sum of squares: {movable[0]:.2f} not divided, {movable[1]:.2f} divided")
assert movable[0] < 0.15 and movable[1] > 0.9

# %%
figure, (axes,) = plots.new_figure(height=3.0)
curves = {name: (head_dims, means) for name, means in largest.items()}
fair = (1 / 64, "fair share, 1/64")
plots.line_chart(axes, curves, "The largest of 64 weights, on average", "head_dim", "weight", fair)
axes.set_xscale("log", base=2)
axes.set_xticks(head_dims, [str(head_dim) for head_dim in head_dims])
plots.show(figure, alt="Not divided, the largest weight climbs towards 1 with head_dim; divided, it stays near 0.1")

# %% [markdown]
# Undivided, a wide head looks at one key and at nothing else, before it has learned anything. Worse, it can hardly
# *learn*: the last line says how much the weights move when the scores move, and a softmax that has made up its mind
# does not move.

# %% [markdown]
# ## All queries at once
#
# A matrix product scores all queries against all keys at once:
#
# $$\mathrm{attn\_weights} = \mathrm{softmax}\!\left(\frac{q\,k^\top}{\sqrt{D_h}} + \mathrm{attn\_bias}\right),
# \qquad \mathrm{output} = \mathrm{attn\_weights}\; v$$
#
# | | shape | one row is |
# |---|---|---|
# | `q` | (..., Tq, Dh) | a query |
# | `k` | (..., Tk, Dh) | a key |
# | `v` | (..., Tk, Dv) | a value |
# | `scores`, `attn_weights` | (..., Tq, Tk) | what one query thinks of every key |
# | output | (..., Tq, Dv) | what one query gets |
#
# The dots stand for any dimensions in front: none now, batch and heads soon.
#
# Two things may be added to the scores. `attn_bias` is a table of numbers (lesson 04 puts distances there). `mask` is a
# table of truth values: **True means this query may attend to this key.** Where it is False the score becomes −∞, and
# softmax makes it a weight of exactly 0:

# %% name="blocked_scores_get_no_weight" tags=["compare"]
some_scores = torch.tensor([[2.0, 1.0, 3.0], [0.0, 1.0, 2.0], [1.0, 1.0, 0.0]])
may_attend = torch.tensor([[True, False, False], [True, True, False], [True, True, True]])
blocked = torch.where(may_attend, some_scores, -torch.inf)
weights_of_three = softmax.softmax(blocked)
assert (weights_of_three[~may_attend] == 0).all() and torch.allclose(weights_of_three.sum(-1), torch.ones(3))
print("row sums:", [round(total, 6) for total in weights_of_three.sum(-1).tolist()])

figure, panels = plots.new_figure(3, width=8.4, height=2.9)
names = (["q0", "q1", "q2"], ["k0", "k1", "k2"])
plots.heat_map(panels[0], some_scores, *names, "scores", low=0, high=3, numbers=".0f")
plots.heat_map(panels[1], blocked, *names, "-inf where the mask is False", low=0, high=3, numbers=".0f")
plots.heat_map(panels[2], weights_of_three, *names, "weights: each row sums to 1", low=0, high=1, numbers=".2f")
plots.show(figure, alt="Three tables: scores; -inf above the diagonal; weights that are 0 there, rows summing to 1")

# %% [markdown]
# The first row shows a rule of softmax that matters later: it *always* hands out all of its attention. With one key
# left, that key gets 1, whatever its score.
#
# And with no key left? Then 0/0. That happens: a padding slot in a batch may see nothing. The course's rule is that
# such a query gets weights of 0.
#
# Now write it. Softmax is yours from lesson 00, as `softmax.softmax` (or take `torch.softmax`).

# %% exercise="layers.sdpa.attention_weights"

# %% [markdown]
# ### Use it: why queries and keys have matrices of their own
#
# Queries, keys and values are made from the same tokens, `x`, by three matrices. Why three? Suppose queries and keys
# shared one, $W$. Then the scores are $S = (xW)(xW)^\top$: symmetric, so you look at me exactly as I look at you. And
# $S_{ij}^2 \le S_{ii} S_{jj}$, so among vectors of equal length none matches a token better than the token itself.
#
# Five draws of 16 random tokens. Asymmetry is the size of $S - S^\top$ beside that of $S$:

# %% name="tied_queries_and_keys_favour_themselves"
diagonal_wins, asymmetry = {"tied": [], "separate": []}, {"tied": [], "separate": []}
for seed in range(5):
    generator = torch.Generator().manual_seed(seed)
    x, w_q, w_k = (torch.randn(n, 64, generator=generator, dtype=torch.float64) for n in (16, 64, 64))
    for name, w in (("tied", w_q), ("separate", w_k)):
        table = (x @ w_q.T) @ (x @ w.T).T / 64
        diagonal_wins[name].append((table.argmax(-1) == torch.arange(16)).double().mean().item())
        asymmetry[name].append(((table - table.T).norm() / table.norm()).item())
        if name == "tied":
            own = table.diagonal()
            assert (table**2 <= own[:, None] * own + 1e-9).all() and torch.linalg.eigvalsh(table).min() > -1e-9
for name in ("tied", "separate"):
    mean_wins = sum(diagonal_wins[name]) / 5
    print(f"{name:9s} asymmetry {min(asymmetry[name]):.1f} to {max(asymmetry[name]):.1f}, "
          f"own key is the best in {mean_wins:.0%} of the rows")
assert max(asymmetry["tied"]) < 1e-12 and min(diagonal_wins["tied"]) == 1.0
assert min(asymmetry["separate"]) > 0.5 and sum(diagonal_wins["separate"]) / 5 < 0.25

# %%
figure, (left, right) = plots.new_figure(2, width=7.2, height=3.6)
for axes, w, title in ((left, w_q, "one matrix for both"), (right, w_k, "a matrix each")):
    shown = attention_weights(x @ w_q.T / 8, x @ w.T / 8, scale=0.25)
    plots.heat_map(axes, shown, title=title, low=0, high=1)
    axes.set_xticks([])
    axes.set_yticks([])
plots.show(figure, alt="Weights of 16 tokens: with one matrix the diagonal shines; with two, bright cells lie anywhere")

# %% [markdown]
# A pronoun should look at its noun, and the noun need not look back. Two matrices can say that; one cannot by itself.
# A third, for the values, frees what is handed over from what is matched.
#
# ## The weighted average
#
# One step is left, and it is short.

# %% exercise="layers.sdpa.sdpa"

# %% [markdown]
# ### Use it, and a myth: "attention is just a linear transform"
#
# It tempts, because the last step is a matrix product. So try it: a linear map $f$ satisfies $f(x + y) = f(x) + f(y)$
# and $f(2x) = 2f(x)$.

# %% name="attention_is_not_linear"
def self_attend(x, w):
    return sdpa(x @ w[0], x @ w[1], x @ w[2])


def relative(error, size):
    return (error.norm() / size.norm()).item()


additivity, doubling = [], []
for seed in range(5):
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(3, 64, 64, generator=generator, dtype=torch.float64) / 8
    x, y = torch.randn(2, 16, 64, generator=generator, dtype=torch.float64)
    both = self_attend(x + y, w)
    additivity.append(relative(both - self_attend(x, w) - self_attend(y, w), both))
    doubling.append(relative(self_attend(2 * x, w) - 2 * self_attend(x, w), 2 * self_attend(x, w)))
    # Hold the weights fixed, and it is linear in the values. A single token has the fixed weight 1.
    held = attention_weights(x @ w[0], x @ w[1])
    assert relative(held @ (x + y) - held @ x - held @ y, held @ (x + y)) < 1e-12
    assert relative(self_attend(x[:1] + y[:1], w) - self_attend(x[:1], w) - self_attend(y[:1], w), both) < 1e-12
print(f"a linear map would give 0; additivity is off by {min(additivity):.1f} to {max(additivity):.1f} of the size,")
print(f"doubling by {min(doubling):.1f} to {max(doubling):.1f}")
assert min(additivity) > 0.5 and min(doubling) > 1.0

# %% [markdown]
# The weights are computed from the input too, and that is where the linearity goes. What *is* linear is the average
# once the weights are held fixed.

# %% [markdown]
# ## Masks: who may see whom
#
# A mask is made from **positions**, not from places in a table. That sounds like hair-splitting until you generate
# text token by token, when a single query at position 4 meets five keys, or until you fill up a batch with padding.
# Here is what you will build, in three cases. Position −1 marks padding: nobody sees it, and it sees nothing.

# %%
from minillm.layers import masks

cases = {
    "five tokens": ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),
    "one new token, four cached": ([4], [0, 1, 2, 3, 4]),
    "two padding slots on the left": ([-1, -1, 0, 1, 2], [-1, -1, 0, 1, 2]),
}
figure, panels = plots.new_figure(3, width=8.4, height=3.7)
for axes, (title, (q_places, kv_places)) in zip(panels, cases.items(), strict=True):
    wanted = masks.causal_mask(torch.tensor(q_places), torch.tensor(kv_places))
    plots.heat_map(axes, wanted, [str(i) for i in q_places], [str(i) for i in kv_places], title, low=0, high=1)
    axes.set_xlabel("key position", fontsize=9)
panels[0].set_ylabel("query position", fontsize=9)
plots.show(figure, alt="Causal masks: a lower triangle; one full row; a triangle that leaves out two rows and columns")

# %% [markdown]
# Bright means *may attend*. Your `broadcast_pairwise` of lesson 00 makes the table of all differences of positions, as
# `pairwise.broadcast_pairwise`.

# %% exercise="layers.masks.causal_mask"

# %% [markdown]
# A causal model reads one way only, even the part of the text that was given to it. A **prefix** mask gives that part
# back its sight in both directions: the first `prefix_len` tokens see one another freely, and everything after them is
# causal.

# %% exercise="layers.masks.prefix_mask"

# %% [markdown]
# ### Use them: who depends on whom
#
# An encoder, a decoder and a prefix LM can have the same weights. What differs is the mask.
#
# **Predict.** Sixteen tokens, so there are 256 pairs of a query and a key. How many may a causal mask leave? And with a
# prefix of 8, how many more?

# %%
guess_causal, guess_prefix = "?", "?"  # numbers of pairs

# %% [markdown]
# The cell counts, and then does something better than counting: it changes each token in turn and notes which outputs
# move. If the mask does its work, this table of dependencies *is* the mask.

# %% name="masks_decide_who_sees_whom" tags=["compare"]
def moved_by(layer, x, token):
    """How far each output of a layer moves when one token is changed: (T,)."""
    changed = x.clone()
    changed[token] += 1.0
    return (layer(changed) - layer(x)).abs().amax(-1)


positions, prefix_len = torch.arange(16), 8
x = torch.randn(16, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
sights = {
    "encoder": masks.bidirectional_mask(positions, positions),
    "decoder": causal_mask(positions, positions),
    "prefix LM": prefix_mask(positions, positions, prefix_len),
}
moves = {}
for name, mask in sights.items():
    layer = lambda tokens, mask=mask: sdpa(tokens, tokens, tokens, mask, scale=1 / 64)  # noqa: E731
    moves[name] = torch.stack([moved_by(layer, x, token) for token in range(16)], dim=-1)
    assert torch.equal(moves[name] > 0, mask), "an output moves exactly where the mask says so"
    assert moves[name][mask].min() > 1e-4
pairs = {name: int(mask.sum()) for name, mask in sights.items()}
assert pairs == {"encoder": 256, "decoder": 136, "prefix LM": 164} and 8 * 8 + 8 * 9 // 2 + 8 * 8 == 164
print(pairs, f"  your guess: {guess_causal}, and {guess_prefix} more")

# %% name="first_token_hears_the_last" tags=["compare"]
for name, token in (("encoder", 15), ("decoder", 15), ("prefix LM", 15), ("decoder", 7), ("prefix LM", 7)):
    hears = bool(moves[name][0, token] > 0)
    print(f"{name:9s}: token {token:2d} changes, the output at position 0 {'moves' if hears else 'moves by exactly 0'}")
assert moves["encoder"][0, 15] > 1e-4 and moves["decoder"][0, 15] == 0 and moves["prefix LM"][0, 15] == 0
assert moves["prefix LM"][0, 7] > 1e-4 and moves["decoder"][0, 7] == 0
longer = torch.cat([x, -x[:1]])
appended = (sdpa(longer, longer, longer, scale=1 / 64)[:16] - sdpa(x, x, x, scale=1 / 64)).abs().amax(-1)
print("encoder  : a token is appended, outputs that move:", int((appended > 1e-4).sum()), "of 16")
assert (appended > 1e-4).all()

figure, panels = plots.new_figure(3, width=8.4, height=3.1)
for axes, (name, moved) in zip(panels, moves.items(), strict=True):
    plots.heat_map(axes, moved > 0, title=f"{name}: {pairs[name]} pairs", low=0, high=1)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("token that is changed", fontsize=9)
panels[0].set_ylabel("output that moves", fontsize=9)
plots.show(figure, alt="Dependencies measured: all pairs; the lower triangle; the triangle with a full 8 by 8 corner")

# %% [markdown]
# By formula: $n^2$, then $n(n+1)/2$, then $p(p-1)/2$ more for a prefix of $p$. The prefix LM is no variety of causal
# reading: a change at the end of the prefix reaches its very first token. And an encoder cannot keep what it has
# computed when the text grows: one more token, and every output is another.
#
# ### A myth: "the causal mask makes the model generalize better"
#
# It tempts, because models with the mask do write better. But the mask is no regularizer. Train two equal layers on
# *random* tokens from a vocabulary of 8. There is nothing to learn: no honest model can do better than
# $\ln 8 = 2.079$ nats a token. One layer has the causal mask, the other has none.
#
# **Predict.** Trained and tested on whole texts, what loss does the layer without a mask reach?

# %%
guess_loss = "?"  # nats a token

# %% name="random_tokens"
def next_token_logits(params, token_ids, masked):
    tok_emb, pos_emb, w_q, w_k, w_v, lm_head = params
    positions = torch.arange(token_ids.shape[1])
    x = tok_emb[token_ids] + pos_emb[positions]
    mask = causal_mask(positions, positions) if masked else None
    return sdpa(x @ w_q.T, x @ w_k.T, x @ w_v.T, mask) @ lm_head.T


def next_token_loss(params, token_ids, masked):
    logits = next_token_logits(params, token_ids, masked)[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), token_ids[:, 1:].flatten())


def train_on_random_tokens(masked, seed, n_steps=100):
    generator = torch.Generator().manual_seed(seed)
    sizes = ((8, 32), (12, 32), *[(32, 32)] * 3, (8, 32))
    params = [torch.randn(*size, generator=generator) / size[1] ** 0.5 for size in sizes]
    optimizer = torch.optim.Adam([param.requires_grad_() for param in params], lr=2e-2)
    for _ in range(n_steps):
        loss = next_token_loss(params, torch.randint(8, (64, 12), generator=generator), masked)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return params

# %% name="without_the_mask_it_copies"
fresh = torch.randint(8, (1000, 12), generator=torch.Generator().manual_seed(99))
losses = {"with the mask": [], "without a mask": []}
print("                whole text at once, only the past given (nats a token, three seeds)")
with torch.no_grad():
    for name, masked in (("with the mask", True), ("without a mask", False)):
        for seed in range(3):
            with torch.enable_grad():
                params = train_on_random_tokens(masked, seed)
            at_once = next_token_loss(params, fresh, masked).item()
            last_logits = [next_token_logits(params, fresh[:, :n], masked)[:, -1] for n in range(1, 12)]
            step_by_step = F.cross_entropy(torch.stack(last_logits, 1).flatten(0, 1), fresh[:, 1:].flatten())
            losses[name].append((at_once, step_by_step.item()))
            one_pass = next_token_logits(params, fresh, masked)[:, :-1]
            assert torch.allclose(torch.stack(last_logits, 1), one_pass, atol=1e-3) == masked
        print(f"{name:15s} {[round(a, 2) for a, _ in losses[name]]}   {[round(b, 1) for _, b in losses[name]]}")
print(f"ln 8 = {math.log(8):.3f}; your guess for the layer without a mask, whole text at once: {guess_loss}")
honest, copied = losses["with the mask"], losses["without a mask"]
assert all(2.0 < loss < 2.2 for pair in honest for loss in pair)
assert all(at_once < 0.01 and step_by_step > 2.5 for at_once, step_by_step in copied)

# %% [markdown]
# Without the mask the loss goes to zero on pure noise: the answer to position t is the next *input*, and the layer
# learns to look one place to the right. Ask it for a token when only the past exists, and it is far worse than
# guessing. With the mask, one pass over the whole text and a walk token by token are the same function, to rounding.
# That is what makes the loss honest, and it is why keys and values can be cached.
#
# ### Padding
#
# The texts of a batch have different lengths, and the short ones are filled up. Padding needs no second mechanism here:
# give it position −1.

# %% name="padding_gets_position_minus_one" tags=["compare"]
beginnings = ["Tom had a red kite", "Mia and her dog Pip loved a"]
ids = [language.tokenizer.encode(text) for text in beginnings]
longest = max(map(len, ids))
padded = torch.tensor([[language.tokenizer.pad_id] * (longest - len(row)) + row for row in ids])
padding_mask = padded != language.tokenizer.pad_id
positions = torch.where(padding_mask, padding_mask.cumsum(-1) - 1, -1)
print(positions)
mask = causal_mask(positions, positions)
assert mask.shape == (2, 7, 7)
assert not mask[0, :, :2].any() and not mask[0, :2].any(), "padding is not seen and sees nothing"
assert mask[0].sum() == 5 * 6 // 2 and mask[1].sum() == 7 * 8 // 2

# %% [markdown]
# Why must a mask be applied *before* the softmax? Because softmax hands out all of its attention. Whatever a blocked
# key has taken is gone when you zero it afterwards. The cell also plays a trick on the padding: it writes 99 into it.

# %% name="padding_must_be_masked_before_softmax" tags=["compare"]
generator = torch.Generator().manual_seed(0)
q = torch.randn(4, 16, generator=generator, dtype=torch.float64)
memory = torch.randn(10, 16, generator=generator, dtype=torch.float64)
real = (torch.arange(10) < 7)[None]
spoiled = memory.clone()
spoiled[~real[0]] = 99.0

with_mask = (sdpa(q, spoiled, spoiled, real) - sdpa(q, memory, memory, real)).abs().max().item()
without = (sdpa(q, spoiled, spoiled) - sdpa(q, memory, memory)).abs().max().item()
print(f"padding changed to 99: with the mask the output moves by exactly {with_mask}")
assert with_mask == 0.0 and without > 1.0

before = attention_weights(q, memory, real).sum(-1)
after = (attention_weights(q, memory) * real).sum(-1)
print("masked before softmax: every row sums to 1:", bool((before - 1).abs().max() < 1e-12))
print("zeroed after softmax:  every row sums to less:", bool((after < 1 - 1e-3).all()))
assert (before - 1).abs().max() < 1e-12 and after.max() < 1 - 1e-3
figure, (axes,) = plots.new_figure(height=2.6)
plots.bar_chart(axes, {f"query {i}": total for i, total in enumerate(after.tolist())}, "Zeroed afterwards: row sums")
axes.axhline(1.0, color=plots.INK, linestyle="--", linewidth=1.0)
plots.show(figure, alt="Four bars below the line at 1: what four rows sum to when padding is zeroed after the softmax")

# %% [markdown]
# So a decoder in training has two kinds of mask: the causal one, which depends on positions only, and padding, which
# depends on the batch. They are joined by *and*, which is what your `causal_mask` does with the −1. A mask of shape
# (1, 10) was enough above: every query may see the same keys, and broadcasting does the rest.
#
# ### Find the bug
#
# The function below makes a mistake that has stood in a widely read interview guide. It runs, the shapes are right, and
# the loss falls nicely. What is wrong? **Mend it in its cell**, then run the check under it.

# %% name="found_in_the_wild"
def borrowed_attention(q, k, v):
    """Causal attention, as found. One thing is wrong."""
    visible = torch.ones(q.shape[-2], k.shape[-2], dtype=q.dtype).tril()
    scores = torch.einsum("...qd,...kd->...qk", q, k) / q.shape[-1] ** 0.5
    scores = scores + (1.0 - visible) * -1e-9
    return scores.softmax(dim=-1) @ v

# %% variant="solved"
def mended_attention(q, k, v):
    """The same with minus infinity in place of minus a billionth."""
    visible = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
    scores = torch.einsum("...qd,...kd->...qk", q, k) / q.shape[-1] ** 0.5
    return scores.masked_fill(~visible, float("-inf")).softmax(dim=-1) @ v


borrowed_attention = mended_attention  # noqa: F811

# %% name="does_it_leak" tags=["compare"]
generator = torch.Generator().manual_seed(0)
x = torch.randn(8, 16, generator=generator, dtype=torch.float64)
leak = moved_by(lambda tokens: borrowed_attention(tokens, tokens, tokens), x, token=7)[:7].max().item()
positions = torch.arange(8)
honest_output = sdpa(x, x, x, causal_mask(positions, positions))
found_output = borrowed_attention(x, x, x)
if leak > 0:
    print("Not mended: change the last token, and outputs before it move. The future leaks.")
    same = torch.allclose(found_output, sdpa(x, x, x))
    print("Is the result the same as without any mask?", same)
elif not torch.allclose(found_output, honest_output):
    print("Nothing leaks any more, but the result is not causal attention: do the rows still sum to 1?")
else:
    print("Mended: no output moves when a later token changes, and the numbers are those of your own sdpa.")

# %% [markdown]
# <details>
# <summary>What it was</summary>
#
# `-1e-9` is minus a *billionth*, where `-1e9`, minus a billion, was meant. The scores do not notice, so there is no
# mask at all, and the layer trains beautifully, as the one on random tokens did. A loss that is too good is a symptom.
#
# Even `-1e9` is only nearly right: a query that may see nothing would then spread its attention evenly over everything
# that it must not see. Minus infinity says what is meant.
#
# How to find it: not by reading, but by changing the last token and looking at the outputs before it. That test needs
# three lines, and it does not care where the leak is.
#
# </details>

# %% [markdown]
# ## Several heads
#
# One softmax row is one distribution, so one attention gives each token *one* weighted average. A token that needs two
# different things, what was lost and where, would get a blend of them. So the width is cut into **heads**: each works
# on its own slice of `head_dim` features, with a softmax of its own, and a last matrix, `o_proj`, mixes what the heads
# have found.
#
# In tensors: (B, T, H · Dh) must become (B, H, T, Dh). It is tempting to reshape straight to that shape. Here are four
# tokens with six features each; every feature carries the number of its token:

# %% name="a_reshape_moves_nothing" tags=["compare"]
numbered = torch.arange(4)[:, None].expand(4, 6)
wrong_heads = numbered.reshape(2, 4, 3)
right_heads = torch.stack([numbered[:, :3], numbered[:, 3:]])
print("head 0 sees the tokens, cut properly:", right_heads[0, :, 0].tolist())
print("head 0 sees the tokens, reshaped:    ", wrong_heads[0, :, 0].tolist())
assert right_heads[0, :, 0].tolist() == [0, 1, 2, 3] and wrong_heads[0, :, 0].tolist() != [0, 1, 2, 3]

figure, panels = plots.new_figure(3, width=8.4, height=3.0)
tokens = [f"row {i}" for i in range(4)]
plots.heat_map(panels[0], numbered, tokens, title="4 tokens, 6 features", low=0, high=3, numbers=".0f")
plots.heat_map(panels[1], right_heads[0], tokens, title="head 0, cut properly", low=0, high=3, numbers=".0f")
plots.heat_map(panels[2], wrong_heads[0], tokens, title="head 0, only reshaped", low=0, high=3, numbers=".0f")
plots.show(figure, alt="Cut properly, head 0 has a row for each token 0 to 3; only reshaped, it mixes tokens 0 and 1")

# %% [markdown]
# The shape is the same and the numbers are not: a reshape never moves a number. You need a cut and then a transpose.
#
# `rearrange` from einops says both in one pattern. It reads like a picture: brackets mark a dimension that is made of
# two, the right side says where everything goes.

# %% name="patterns_read_like_pictures" tags=["compare"]
letters = torch.arange(6)
print(rearrange(letters, "(row column) -> row column", row=2).tolist())
print(rearrange(letters, "(row column) -> column row", row=2).tolist())
assert torch.equal(rearrange(letters, "(row column) -> column row", row=2), letters.view(2, 3).T)

# %% exercise="layers.heads.split_heads"

# %% exercise="layers.heads.merge_heads"

# %% [markdown]
# Two ways to write both, and you will meet them all your life: the pattern, and view with transpose.

# %% name="two_ways_one_result" tags=["compare"]
x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))
by_pattern = rearrange(x, "batch token (head feature) -> batch head token feature", head=3)
by_moves = x.view(2, 5, 3, 4).transpose(1, 2)
back = by_moves.transpose(1, 2).reshape(2, 5, 12)
assert torch.equal(split_heads(x, 3), by_pattern) and torch.equal(by_pattern, by_moves)
assert torch.equal(merge_heads(by_pattern), x) and torch.equal(back, x)
print(tuple(x.shape), "->", tuple(split_heads(x, 3).shape), "->", tuple(merge_heads(split_heads(x, 3)).shape))
print("in order in memory after the transpose:", by_moves.is_contiguous())

# %% [markdown]
# The last line is why `view` fails after a transpose where `reshape` works: the numbers have not been moved, only the
# way of counting them.
#
# Now put everything together:
#
# With $W_{q,i}$ for the rows of $W_q$ that belong to head $i$, and so for keys and values:
#
# $$\mathrm{head}_i = \mathrm{sdpa}(x W_{q,i}^\top,\; x W_{k,i}^\top,\; x W_{v,i}^\top), \qquad
# \mathrm{output} = [\mathrm{head}_1, \dots, \mathrm{head}_H]\; W_o^\top$$
#
# The mask is the same for all heads, and broadcasting sees to that: (T, T) fits as it is, and a mask for each text of
# a batch, (B, T, T), is handed in as `mask[:, None]`.

# %% exercise="layers.multi_head.multi_head_attention"

# %% [markdown]
# ### Use it: the same as PyTorch's
#
# `nn.MultiheadAttention` is the same function with the same weights. One trap: its `attn_mask` has the *opposite*
# polarity, True means blocked.

# %% name="our_mha_equals_torch" tags=["compare"]
from minillm.config import preset

generator = torch.Generator().manual_seed(0)
theirs = torch.nn.MultiheadAttention(512, 8, bias=False, batch_first=True, dtype=torch.float64)
weights = [torch.randn(512, 512, generator=generator, dtype=torch.float64) / 512**0.5 for _ in range(4)]
with torch.no_grad():
    theirs.in_proj_weight.copy_(torch.cat(weights[:3]))
    theirs.out_proj.weight.copy_(weights[3])
x = torch.randn(2, 10, 512, generator=generator, dtype=torch.float64)
mask = causal_mask(torch.arange(10), torch.arange(10))
ours = multi_head_attention(x, *weights, 8, mask)
difference = (ours - theirs(x, x, x, attn_mask=~mask, need_weights=False)[0]).abs().max()
n_weights = sum(w.numel() for w in weights)
print("the largest difference is below 1e-12:", bool(difference < 1e-12))
print(f"weights: {n_weights:,} = 4 * 512 * 512")
assert difference < 1e-12 and n_weights == 1_048_576 == 4 * 512**2

big = preset("llama-7b")
cached = 2 * big.n_layers * big.n_kv_heads * big.head_dim
print(f"keys and values that a LLaMA-7B must keep for one token: {cached:,} numbers, {2 * cached:,} bytes in fp16")
assert cached == 262_144 and 2 * cached == 524_288

# %% [markdown]
# ### What a second head is for: two pointers
#
# Eight slots hold eight random numbers each. A ninth token names *two* of the slots and must return the contents of
# both. Two layers with the same 2,048 weights are trained alike; one uses them as one head, the other as two.
#
# One head has one weighted average to give. In 7 of 8 cases the slots differ, and an average of two unknown vectors
# leaves half of the variance open, so its mean squared error cannot fall below 7/8 · 1/2 = 7/16.
#
# **Predict.** What will two heads reach: about half of that, or about nothing?

# %%
guess_error = "?"  # a mean squared error

# %% name="two_pointers"
def two_pointer_error(params, n_heads, batch_size, generator):
    slot_names = torch.eye(8)
    contents = torch.randn(batch_size, 8, 8, generator=generator)
    first, second = torch.randint(8, (2, batch_size), generator=generator)
    slots = torch.cat([slot_names.expand(batch_size, 8, 8), contents], dim=-1)
    question = torch.cat([slot_names[first], slot_names[second]], dim=-1)[:, None]
    rows = torch.arange(batch_size)
    wanted = torch.cat([contents[rows, first], contents[rows, second]], dim=-1)
    only_slots = (torch.arange(9) < 8)[None]  # the same keys for every query
    answer = multi_head_attention(torch.cat([slots, question], dim=1), *params, n_heads, only_slots)[:, -1]
    return (answer - wanted).square().mean()


def train_two_pointers(n_heads, seed, n_steps=160):
    generator = torch.Generator().manual_seed(seed)
    sizes = ((32, 16), (32, 16), (32, 16), (16, 32))
    params = [torch.randn(*size, generator=generator) / size[1] ** 0.5 for size in sizes]
    optimizer = torch.optim.Adam([param.requires_grad_() for param in params], lr=2e-2)
    for _ in range(n_steps):
        loss = two_pointer_error(params, n_heads, 64, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [param.detach() for param in params]

# %% name="two_pointers_need_two_heads"
errors, trained = {1: [], 2: []}, {}
for n_heads in (1, 2):
    for seed in range(3):
        trained[n_heads] = train_two_pointers(n_heads, seed)
        assert sum(param.numel() for param in trained[n_heads]) == 2048
        test_error = two_pointer_error(trained[n_heads], n_heads, 5_000, torch.Generator().manual_seed(99))
        errors[n_heads].append(test_error.item())
    print(f"heads: {n_heads}   mean squared error, three seeds: {[round(error, 3) for error in errors[n_heads]]}")
print(f"floor of one head: {7 / 16}; your guess for two: {guess_error}")
assert min(errors[1]) > 0.43 and max(errors[2]) < 0.01

# %%
def pointer_weights(params, n_heads, first, second):
    """How much the asking token takes from each of the eight slots, head by head: (H, 8)."""
    slots = torch.cat([torch.eye(8), torch.zeros(8, 8)], dim=-1)[None]
    question = torch.cat([torch.eye(8)[first], torch.eye(8)[second]])[None, None]
    asking, found = (split_heads(x @ w.T, n_heads) for x, w in zip((question, slots), params[:2], strict=True))
    return attention_weights(asking, found)[0, :, 0]


figure, panels = plots.new_figure(2, width=8.8, height=2.0)
for axes, n_heads in zip(panels, (1, 2), strict=True):
    rows = pointer_weights(trained[n_heads], n_heads, first=1, second=6)
    names, title = [f"head {i}" for i in range(n_heads)], f"heads: {n_heads}, asked for slots 1 and 6"
    plots.heat_map(axes, rows, names, [str(i) for i in range(8)], title, low=0, high=1, numbers=".2f")
plots.show(figure, alt="One head divides its attention between slots 1 and 6; of two heads each looks at one of them")

# %% [markdown]
# The one head must share; of the two, each goes for one slot. Nobody told them to divide the work. The error did.
#
# ### Myth and measurement: "eight heads cut the cost by eight"
#
# The usual reckoning: one head needs a 512 × 512 matrix, 262,144 weights; eight heads need 8 × (64 × 64) = 32,768. Let
# PyTorch count the multiplications (of the course's function, so that yours may use a kernel that hides them).

# %% name="heads_do_not_change_macs" tags=["compare"]
from torch.utils.flop_counter import FlopCounterMode

from minillm.layers import multi_head

x = torch.zeros(1, 512, 512)
matrices = [torch.zeros(512, 512) for _ in range(4)]
n_weights = sum(matrix.numel() for matrix in matrices)
macs = {}
for n_heads in (1, 8):
    with FlopCounterMode(display=False) as counter:
        multi_head.multi_head_attention(x, *matrices, n_heads)
    macs[n_heads] = counter.get_total_flops() // 2  # a multiplication and an addition
    n_scores = n_heads * 512 * 512
    print(f"heads: {n_heads}   weights {n_weights:,}   multiply-adds {macs[n_heads]:,}   scores {n_scores:,}")
assert n_weights == 1_048_576 and macs[1] == macs[8] == 805_306_368
assert macs[1] == 4 * 512 * 512**2 + 2 * 512**2 * 512
assert (512 * 512, 8 * 512 * 512) == (262_144, 2_097_152)
print(f"one projection of 8 heads: 8 * (512 * 64) = {8 * 512 * 64:,} weights, not 8 * (64 * 64) = {8 * 64 * 64:,}")
assert 8 * 512 * 64 == 262_144 and 8 * 64 * 64 == 32_768

# %% [markdown]
# Nothing is saved. A head projects all 512 features to its 64, so its matrix is 512 × 64, and eight of them make the
# same 262,144. The products with T² are the same too. What does grow is the number of scores: eight tables in place of
# one, which must be stored unless a fused kernel (lesson 03) avoids it.
#
# ### Where the benefit ends
#
# A head's table of scores is a product of a (T, Dh) and a (Dh, T) matrix, so its rank is at most Dh. Cut the width into
# too many heads, and each becomes too weak to draw a sharp pattern.

# %% name="each_head_has_low_rank_scores" tags=["compare"]
generator = torch.Generator().manual_seed(0)
x = torch.randn(1, 128, 64, generator=generator, dtype=torch.float64)
w_q, w_k = torch.randn(2, 64, 64, generator=generator, dtype=torch.float64)
ranks = {}
for n_heads in (1, 2, 8):
    tables = split_heads(x @ w_q.T, n_heads) @ split_heads(x @ w_k.T, n_heads).mT
    ranks[n_heads] = set(torch.linalg.matrix_rank(tables).flatten().tolist())
    print(f"heads: {n_heads}   head_dim: {64 // n_heads:2d}   rank of each 128 by 128 table: {ranks[n_heads]}")
assert ranks == {1: {64}, 2: {32}, 8: {8}}

# %% [markdown]
# In the original paper, at constant cost, 1 head and 32 heads both did worse than 8 (Vaswani et al. 2017, table 3,
# rows A).
#
# ## Reading another sequence
#
# Nothing in attention asks that queries and keys come from the same tokens. A translator that writes word 4 looks back
# at the words it has written (self-attention) *and* into the sentence it translates. For the latter, queries come from
# `x`, keys and values from a `memory`: **cross-attention**.

# %% exercise="layers.multi_head.cross_attention"

# %% [markdown]
# ### Use it: what cross-attention sees is a set
#
# Four queries, ten slots of memory. Shuffle the memory: what happens to the output?

# %% name="cross_attention_reads_a_set" tags=["compare"]
generator = torch.Generator().manual_seed(0)
weights = [torch.randn(64, 64, generator=generator, dtype=torch.float64) / 8 for _ in range(4)]
x, memory = (torch.randn(1, n, 64, generator=generator, dtype=torch.float64) for n in (4, 10))
shuffled = memory[:, torch.randperm(10, generator=generator)]
change = (cross_attention(x, shuffled, *weights, 4) - cross_attention(x, memory, *weights, 4)).abs().max()
table = attention_weights(split_heads(x @ weights[0].T, 4), split_heads(memory @ weights[1].T, 4))
print("weights:", tuple(table.shape), "  output:", tuple(cross_attention(x, memory, *weights, 4).shape))
print("memory shuffled, output the same to rounding:", bool(change < 1e-12))
on_itself = (cross_attention(x, x, *weights, 4) - multi_head_attention(x, *weights, 4)).abs().max()
print("self-attention is the special case memory = x:", bool(on_itself < 1e-12))
assert on_itself < 1e-12
assert table.shape == (1, 4, 4, 10) and (table.sum(-1) - 1).abs().max() < 1e-12 and change < 1e-12

# %% [markdown]
# Whatever order the source has, it must be written into the vectors themselves. That is lesson 04.
#
# ### A decoder layer
#
# The decoder layer of the original Transformer has three parts: causal self-attention, cross-attention into the
# encoder's output, and an FFN for each position by itself. Three residual additions, three norms:

# %%
def decoder_layer(x, memory, own, across, ffn):
    """Causal self-attention, cross-attention, FFN; post-norm, as in Vaswani et al. 2017, section 3.1."""
    positions = torch.arange(x.shape[1])
    look_back = multi_head_attention(x, *own, 4, causal_mask(positions, positions))
    x = F.layer_norm(x + look_back, x.shape[-1:])
    x = F.layer_norm(x + cross_attention(x, memory, *across, 4), x.shape[-1:])
    return F.layer_norm(x + F.relu(x @ ffn[0].T) @ ffn[1].T, x.shape[-1:])

# %% [markdown]
# **Predict.** Change token 5 of the eight target tokens: which outputs move? Change a token of the source: which move?

# %% name="decoder_layer_looks_back_and_at_the_source" tags=["compare"]
own, across = torch.randn(2, 4, 64, 64, generator=generator, dtype=torch.float64) / 8
ffn = (torch.randn(256, 64, generator=generator).double() / 8, torch.randn(64, 256, generator=generator).double() / 16)
target, source = (torch.randn(n, 64, generator=generator, dtype=torch.float64) for n in (8, 6))

by_target = moved_by(lambda tokens: decoder_layer(tokens[None], source[None], own, across, ffn)[0], target, token=5)
print("target token 5 changed, outputs that move:", by_target.nonzero()[:, 0].tolist())
assert (by_target[:5] == 0).all() and (by_target[5:] > 1e-4).all()

for token in range(6):
    by_source = moved_by(lambda tokens: decoder_layer(target[None], tokens[None], own, across, ffn)[0], source, token)
    assert (by_source > 1e-4).all()
print("any source token changed, outputs that move:", by_source.nonzero()[:, 0].tolist())

# %% [markdown]
# ### The memory is projected once
#
# While the decoder writes token by token, its own keys grow by one a step. The memory does not change at all, so its
# keys and values are made once and kept.

# %% name="cross_keys_and_values_once" tags=["compare"]
n_projected = {"each step": 0, "once": 0}


def read_memory(which, memory):
    n_projected[which] += 2
    return [split_heads(memory @ w.T, 4) for w in across[1:3]]


steps = torch.randn(20, 1, 1, 64, generator=generator, dtype=torch.float64)
stored = read_memory("once", source[None])
for step in steps:
    q = split_heads(step @ across[0].T, 4)
    from_store = merge_heads(sdpa(q, *stored)) @ across[3].T
    afresh = merge_heads(sdpa(q, *read_memory("each step", source[None]))) @ across[3].T
    assert torch.equal(from_store, afresh)
print("20 steps, equal outputs; projections of the memory:", n_projected)
assert n_projected == {"each step": 40, "once": 2}

# %% [markdown]
# ### A door that is closed at first
#
# Cross-attention is also how images get into a finished language model (Flamingo): a new layer's output is multiplied
# by tanh(gate), and the gate starts at 0. **Predict:** in the very first step of training, which gradients are zero,
# the gate's or the new matrices'?

# %% name="a_zero_gate_keeps_the_model" tags=["compare"]
text, image, wanted = (torch.randn(1, n, 64, generator=generator, dtype=torch.float64) for n in (8, 6, 8))
for start in (0.0, 0.1):
    gate = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    new = across.clone().requires_grad_()
    y = text + gate.tanh() * cross_attention(text, image, *new, 4)
    (y - wanted).square().mean().backward()
    moving = [name for name, gradient in zip("qkvo", new.grad, strict=True) if gradient.abs().max() > 0]
    moving += ["gate"] * bool(gate.grad.abs() > 1e-4)
    print(f"gate {start}: output the same as without the layer: {torch.equal(y, text)}; not 0: gradients of {moving}")
    assert torch.equal(y, text) == (start == 0.0)
    assert moving == (["gate"] if start == 0.0 else ["q", "k", "v", "o", "gate"])

# %% [markdown]
# The old model is untouched on the first day, and the gate moves first; the matrices follow as soon as it is ajar.
#
# ## Your code reads a story
#
# Back to the gap. A tiny reader: an embedding, *one* attention layer with four heads, and a table of answers; no FFN
# and no positions. It reads stories and is asked two things: which object is the last one, and which place.
#
# Inside `mine.active()` the package calls your functions: the course's `Attention` module splits with your
# `split_heads`, masks with your `causal_mask` and attends with your `sdpa`.

# %%
from torch import nn

from minillm.layers import recorder
from minillm.layers.attention import Attention

KINDS = {
    kind: torch.tensor([language.tokenizer.encode(row[kind])[0] for row in language.grammar.facts[kind]])
    for kind in ("object", "place")
}


def new_reader():
    n_words = language.tokenizer.vocab_size
    parts = {"tok_emb": nn.Embedding(n_words, 64), "attention": Attention(64, 4, 4, 16)}
    reader = nn.ModuleDict(parts | {"lm_head": nn.Linear(64, n_words, bias=False)})
    nn.init.normal_(reader["tok_emb"].weight, std=0.3)
    return reader


def read_story(reader, token_ids):
    positions = torch.where(token_ids != language.tokenizer.pad_id, torch.arange(token_ids.shape[1]), -1)
    return reader["attention"](reader["tok_emb"](token_ids), positions)

# %%
def last_of(kind, token_ids):
    """Where the last word of a kind stands in each story: (B,)."""
    return (torch.isin(token_ids, KINDS[kind]) * torch.arange(token_ids.shape[1])).argmax(-1)


def ask(reader, token_ids):
    """The logits just before the last word of each kind, and that word."""
    rows, found = torch.arange(len(token_ids)), read_story(reader, token_ids)
    places = {kind: last_of(kind, token_ids) for kind in KINDS}
    return {kind: (reader["lm_head"](found[rows, at - 1]), token_ids[rows, at]) for kind, at in places.items()}


def train_reader(seed, n_steps=100):
    torch.manual_seed(seed)
    reader, generator = new_reader(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(reader.parameters(), lr=1e-2)
    for _ in range(n_steps):
        answers = ask(reader, language.sample_batch(32, generator))
        loss = sum(F.cross_entropy(logits, word) for logits, word in answers.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return reader

# %% name="heads_find_the_word"
new_stories = language.sample_batch(300, torch.Generator().manual_seed(99))
readers = []
with mine.active():
    for seed in range(3):
        readers.append(train_reader(seed))
        with torch.no_grad():
            answers = ask(readers[-1], new_stories)
        right = {kind: (logits.argmax(-1) == word).double().mean() for kind, (logits, word) in answers.items()}
        print(f"reader {seed}, right answers on new stories:", {kind: f"{share:.0%}" for kind, share in right.items()})
        assert min(right.values()) > 0.9
print("a blind guess would be right in", {kind: f"1 of {len(ids)}" for kind, ids in KINDS.items()})

# %% [markdown]
# And whose code was it?

# %% tags=["compare"]
mine.table()

# %% [markdown]
# Now look inside. `recorder.record()` listens while a model runs, and keeps every table of attention weights. For each
# reader, question and head: what share of its attention does the asking word give to the right word?

# %% name="which_head_answers_what"
rows, on_answer = torch.arange(len(new_stories)), torch.zeros(3, 2, 4)
for seed, reader in enumerate(readers):
    with mine.active(), torch.no_grad(), recorder.record() as tape:
        read_story(reader, new_stories)
    recorded = tape["attn_weights"][0]
    for i, kind in enumerate(KINDS):
        place = last_of(kind, new_stories)
        is_answer = new_stories == new_stories[rows, place][:, None]
        on_answer[seed, i] = (recorded[rows, :, place - 1] * is_answer[:, None]).sum(-1).mean(0)
print("recorded:", tuple(recorded.shape), "= stories, heads, queries, keys")
assert on_answer.amax(-1).min() > 0.5, "for each question there is a head that looks at the answer"

figure, panels = plots.new_figure(3, width=9.0, height=2.3)
for seed, axes in enumerate(panels):
    asked = ["which object?", "which place?"] if seed == 0 else ["", ""]
    plots.heat_map(axes, on_answer[seed], asked, list("0123"), f"reader {seed}", 0, 1, ".2f")
    axes.set_xlabel("head", fontsize=9)
plots.show(figure, alt="Share of attention on the right word, by question and head, for three trained readers")

# %% [markdown]
# The same head may answer both questions: what it looks up is decided by the *query*, which is made from the word that
# asks. Other heads look anywhere, and nobody minds. Who does what is an accident of the seed; heads are not assigned.
#
# Here is the story from the beginning again, as reader 0 reads it.

# %% name="a_head_looks_back"
token_ids = torch.tensor([[language.tokenizer.bos_id, *language.tokenizer.encode(story)]])
with mine.active(), torch.no_grad(), recorder.record() as tape:
    read_story(readers[0], token_ids)
recorded = tape["attn_weights"][0][0]
shown_words = ["<bos>", *words]
questions = {}
for i, kind in enumerate(KINDS):
    head = int(on_answer[0, i].argmax())
    asking = int(last_of(kind, token_ids)) - 1
    questions[f"head {head}: which {kind}?"] = (asking, recorded[head, asking])
looked_at = {title: shown_words[int(row.argmax())] for title, (_, row) in questions.items()}
print(looked_at)
picture = story_weights_picture(shown_words, questions)
plots.show(picture, alt=f"The story twice, words shaded by attention: {looked_at}")

# %% [markdown]
# The word in colour asks; the shaded words answer; what stands in grey had not been read yet. Nobody told the reader
# which words are objects and which are places. Being asked was enough.
#
# This reader knows *kinds* of words, nothing more: it would look at any kite, wherever it stands. To look for "the word
# that came after the one like me" takes positions and a second layer: that is for the GPT of lesson 07.

# %% [markdown]
# ## Explore
#
# The same head on a shorter text. Move the query. Take the mask away and see what the first words look at. Make the
# temperature small, and attention becomes a hard choice; make it large, and it becomes a plain average.

# %% name="attention_explorer"
from functools import partial

from minillm.course.scenes.attention_explorer import explorer_controls, explorer_picture
from minillm.course.widgets import Explorer

short = split_words("Mia had a red kite . she lost the kite in the cave . Mia left the cave with her red")
with torch.no_grad():
    x = readers[0]["tok_emb"](torch.tensor([language.tokenizer.encode(" ".join(short))]))
    layer = readers[0]["attention"]
    asked, found = split_heads(layer.q_proj(x), 4), split_heads(layer.k_proj(x), 4)
    head_scores = (asked @ found.mT / 16**0.5)[0, on_answer[0, 0].argmax()]
assert short[int(head_scores[-1].argmax())] == "kite"
Explorer(
    partial(explorer_picture, short, head_scores),
    alt="Left: attention weights of 21 words under a causal mask. Right: the last word, red, reads mostly from kite",
    **explorer_controls(len(short), query=len(short) - 1),
)

# %% [markdown]
# ## Interview corner
#
# Each answer names the cell above that proves it. Say yours aloud before you unfold one.

# %% [markdown] interview="02"

# %% [markdown]
# ## Remember
#
# 1. A query's scores over the keys become weights by softmax, and what comes out is an average of values: attention
#    moves information. Divide by √head_dim, or it looks at one thing before it has learned what to look for.
# 2. A mask is made from positions and works before the softmax, with −∞. Whether it does its work is not to be read in
#    the code: change a later token, and see whether an earlier output moves.
# 3. Heads give a token several averages at once, at the same cost. Cut and transpose; never only reshape.
#
# **Where next.** Lesson 03 makes attention cheaper; lesson 04 tells it where the words stand. Lesson 07 puts your
# functions into a GPT.
