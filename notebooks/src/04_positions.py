# %% [markdown]
# # 04 Positions
#
# Attention moves information, and it does not know where anything stands. You will tell it, in every way that has been
# of use: vectors added to the tokens, vectors and numbers for distances, rotations, a penalty, and nothing at all. Then
# you take models that were trained on short texts and watch what happens to them on long ones.
#
# | | |
# |---|---|
# | **You need** | lesson 02: scores, weights, heads, masks |
# | **Time** | about 110 minutes for the exercises, as much again for the rest |
# | **Runs on** | any CPU with 2 GB; all cells together about a minute, most of it small trainings |
# | **Sources** | Vaswani et al. 2017, *Attention Is All You Need*, section 3.5 (sinusoids) |
# | | Shaw et al. 2018; Dai et al. 2019 (Transformer-XL), section 3.3; Raffel et al. 2020 (T5), section 2.1 |
# | | Su et al. 2021 (RoFormer), section 3; Press et al. 2022 (ALiBi), section 3 |
# | | Chen et al. 2023 (position interpolation), Peng et al. 2023 (YaRN) |
#
# ## Who calls whom?
#
# Two sentences of the same three words. Each word has a vector, and attention without a mask reads them.

# %% name="who_calls_whom"
import math

import torch
import torch.nn.functional as F

from minillm.course import check, hint, mine, plots, reset, solution  # noqa: F401
from minillm.layers import alibi, heads, masks, pairwise, rope, sdpa, softmax  # noqa: F401
from minillm.layers import sinusoidal as sinusoids

torch.set_num_threads(1)  # these matrices are small: a second thread would only wait for the first
generator = torch.Generator().manual_seed(5)
vectors = {word: torch.randn(8, generator=generator) for word in ("Mia", "calls", "Tom")}
figure, panels = plots.new_figure(2, width=8.4, height=2.4)
outputs = {}
for axes, sentence in zip(panels, ("Mia calls Tom", "Tom calls Mia"), strict=True):
    x = torch.stack([vectors[word] for word in sentence.split()])
    out = sdpa.sdpa(x, x, x)
    outputs[sentence] = dict(zip(sentence.split(), out, strict=True))
    plots.heat_map(axes, out, sentence.split(), title=f"“{sentence}”: what each word gets", low=-2, high=2)
    axes.set_xlabel("feature", fontsize=9)
first, second = outputs.values()
assert all(torch.allclose(first[word], second[word], atol=1e-6) for word in vectors)
plots.show(figure, alt="Outputs of attention for two sentences: the row of each word is the same in both")

# %% [markdown]
# Compare the rows of one word, left and right: they are the same. *Calls* cannot know who calls whom. An average has
# no order, and attention is an average.
#
# That is a property of attention, not of neural networks: an RNN or a convolution reads in order by its construction.
# The next cell reorders 16 tokens and measures, for each layer, how much more happens than that its outputs are
# reordered too. 0 means: blind to order.

# %% name="attention_is_blind_to_order" tags=["compare"]
def reordering_error(layer, x, order):
    return (layer(x[order]) - layer(x)[order]).abs().max().item()


errors = {}
positions = torch.arange(16)
for seed in range(5):
    torch.manual_seed(seed)
    x, order = torch.randn(16, 32, dtype=torch.float64), torch.randperm(16)
    w, places = torch.randn(3, 32, 32).double() / 32**0.5, torch.randn(16, 32).double()
    attend = lambda x, mask=None, w=w: sdpa.sdpa(*(x @ part for part in w), mask)  # noqa: E731
    gru, conv = torch.nn.GRU(32, 32).double(), torch.nn.Conv1d(32, 32, 3, padding=1).double()
    layers = {
        "attention": attend,
        "attention, causal mask": lambda x, f=attend: f(x, masks.causal_mask(positions, positions)),
        "attention, positions added": lambda x, f=attend, places=places: f(x + places),
        "recurrent network": lambda x, gru=gru: gru(x)[0],
        "convolution": lambda x, conv=conv: conv(x.T).T,
    }
    for name, layer in layers.items():
        errors.setdefault(name, []).append(reordering_error(layer, x, order))
for name, values in errors.items():
    print(f"{name:27s} {'blind to order' if max(values) < 1e-12 else 'sees order'}")
assert max(errors.pop("attention")) < 1e-12 and min(map(min, errors.values())) > 0.1

# %% [markdown]
# Line two is a surprise to many. With a causal mask, the first token sees one key and the tenth sees ten: the mask by
# itself gives some order away. We come back to it under *No positions at all*.

# %% [markdown]
# ## One query, two equal keys
#
# The smallest case that needs a position: a query at position 3, and the same word at positions 0 and 2.
#
# $$q = (2, 0), \qquad k_0 = k_2 = (1, 0)$$
#
# Equal keys get equal scores, and each gets weight 1/2, wherever it stands. There are three ways to break the tie:
#
# - **add** a vector for the position to every token, before keys and queries are made of it;
# - **turn** query and key by an angle that grows with the position;
# - **subtract** something from the score that grows with the distance.
#
# **Predict.** Take the third way, and subtract 0.5 for every token of distance. What weight does the nearer key get?

# %%
guess_nearer = "?"  # a number between 0 and 1

# %% name="three_ways_to_break_a_tie" tags=["compare"]
def turn(vector, angle):
    x, y = vector
    return (x * math.cos(angle) - y * math.sin(angle), y * math.cos(angle) + x * math.sin(angle))


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


q, k, far, near = (2.0, 0.0), (1.0, 0.0), 0, 2
rows = {far: (-0.4, 0.5), near: (0.6, 0.3)}  # a vector for each position, as a training might have left them
added = {place: (k[0] + rows[place][0], k[1] + rows[place][1]) for place in (far, near)}
turned = {place: turn(k, 0.5 * place) for place in (far, near)}
scores = {
    "nothing": [dot(q, k), dot(q, k)],
    "added": [dot(q, added[far]), dot(q, added[near])],
    "turned": [dot(turn(q, 0.5 * 3), turned[far]), dot(turn(q, 0.5 * 3), turned[near])],
    "subtracted": [dot(q, k) - 0.5 * 3, dot(q, k) - 0.5 * 1],
}
nearer = {way: softmax.softmax(torch.tensor(pair))[1].item() for way, pair in scores.items()}
for way, pair in scores.items():
    print(f"{way:10s} scores {pair[0]:5.2f} {pair[1]:5.2f}   weight of the nearer key {nearer[way]:.2f}")
print(f"your guess for 'subtracted': {guess_nearer}")
assert nearer["nothing"] == 0.5 and min(nearer["added"], nearer["turned"], nearer["subtracted"]) > 0.7

# %%
figure, (left, middle, right) = plots.new_figure(3, width=9.6, height=3.2)
plots.vector_arrows(left, {"q": q, "k at 0": added[far], "k at 2": added[near]}, "added: keys move apart")
turned_arrows = {"q at 3": turn(q, 1.5), "k at 0": turned[far], "k at 2": turned[near]}
plots.vector_arrows(middle, turned_arrows, "turned: half a radian a token")
plots.bar_chart(right, nearer, "weight of the nearer key", numbers=".2f")
right.set_ylim(0, 1)
right.tick_params(axis="x", labelsize=8)
plots.show(figure, alt="Keys moved apart by adding, and turned; bars: the nearer key gets a half, then more")

# %% [markdown]
# By hand, for the third way: the scores are 0.5 and 1.5, and $1 / (1 + e^{-1}) = 0.73$.
#
# All of this lesson is these three ways. The first is called **absolute**, for it speaks of places; the other two are
# **relative**, because only the distance of query and key counts. It is a fact about pairs, so it lives in the
# attention, and no token carries it about.

# %% [markdown]
# ## A trained vector for each position
#
# The simplest: a table with a row for each position, trained like everything else, and row t is added to token t.
# GPT-2 and BERT do it. (The tiny GPT of lesson 00 does too.) What happens at its end?
#
# **Predict.** A table of 128 rows is trained on texts of 64 tokens. Which rows have learned something?

# %%
guess_rows = "?"  # a number of rows

# %% name="learned_table_ends" tags=["compare"]
table = torch.nn.Embedding(128, 8)
seen = torch.arange(64)  # a training that never goes beyond position 63
table(seen).square().sum().backward()
touched = table.weight.grad.abs().sum(-1) > 0
print(f"rows with a gradient: {int(touched.sum())} of {len(touched)}   your guess: {guess_rows}")
assert touched[:64].all() and not touched[64:].any()

refused = False
try:
    torch.nn.Embedding(64, 8)(torch.tensor(64))
except IndexError:
    refused = True
print("position 64 in a table of 64 rows is an IndexError:", refused)
x = torch.randn(8, generator=generator)
moved = table.weight[10] + x, table.weight[11] + x
print("one word, one place further on, has the same vector:", torch.equal(*moved))
assert refused and not torch.equal(*moved)

# %% [markdown]
# Beyond the trained length the rows are what chance made them, or there are none. And a text that begins one place
# later is a text of other vectors: what was learned for places 3 and 4 must be learned for 103 and 104 again.

# %% [markdown]
# ## Sines and cosines
#
# Think of clock hands. One alone tells little: the second hand is at 12 once a minute. But a second, a minute and an
# hour hand together tell every moment of half a day. The Transformer's first positions are such a clock with
# $D/2$ hands, the fastest at one radian a token, the slowest nearly `base` times slower. A hand is noted as two
# numbers, its sine and its cosine:
#
# $$\mathrm{PE}(t)_{2i} = \sin(\omega_i t), \qquad \mathrm{PE}(t)_{2i+1} = \cos(\omega_i t), \qquad
# \omega_i = \mathrm{base}^{-2i/D}$$

# %%
figure, (axes,) = plots.new_figure(width=8.4, height=3.2)
plots.heat_map(axes, sinusoids.sinusoidal(torch.arange(96), 32).T, title="Sinusoidal positions", low=-1, high=1)
axes.set_xticks(range(0, 96, 8), [str(t) for t in range(0, 96, 8)])
axes.set_yticks(range(0, 32, 4), [str(i) for i in range(0, 32, 4)])
axes.set_xlabel("position", fontsize=9)
axes.set_ylabel("feature", fontsize=9)
plots.show(figure, alt="Stripes: features above change quickly from position to position, those below ever more slowly")

# %% exercise="layers.sinusoidal.sinusoidal"

# %% [markdown]
# ### Use it: can a position be read back?
#
# You hear that sinusoids hold "relative, but no absolute position". Try it. Take the vectors of 4096 positions, spoil
# each feature with noise of 0.1, and look for the nearest clean one.

# %% name="a_sinusoid_names_its_position" tags=["compare"]
table = sinusoidal(torch.arange(4096), 64)
noisy = table + 0.1 * torch.randn(table.shape, generator=torch.Generator().manual_seed(0))
nearest = torch.cat([torch.cdist(rows, table).argmin(-1) for rows in noisy.split(512)])
right = (nearest == torch.arange(4096)).double().mean().item()
print(f"positions read back: {right:.0%} of 4096")
assert right == 1.0

# %% [markdown]
# Every one. The vectors are absolute: each place has its own. What they have besides is that a *shift* is simple.
# Moving on by $k$ tokens turns hand $i$ by $\omega_i k$, from whatever place one starts:
#
# $$\begin{pmatrix}\sin\omega(t+k)\\ \cos\omega(t+k)\end{pmatrix} =
# \begin{pmatrix}\cos\omega k & \sin\omega k\\ -\sin\omega k & \cos\omega k\end{pmatrix}
# \begin{pmatrix}\sin\omega t\\ \cos\omega t\end{pmatrix}$$
#
# So the dot product of two position vectors depends on their distance alone.
#
# **Predict.** In a model the vectors go through $W_q$ and $W_k$ first. Does the score of two positions still depend on
# their distance alone?

# %%
guess_shift = "?"  # yes or no

# %% name="a_shift_is_a_rotation" tags=["compare"]
table, offset = sinusoidal(torch.arange(300), 64).double(), 7
angles = offset * 10000.0 ** (-torch.arange(0, 64, 2, dtype=torch.float64) / 64)
blocks = [torch.tensor([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]]).double() for a in angles.tolist()]
shift = torch.block_diag(*blocks)
error = (table[offset:] - table[:-offset] @ shift.T).abs().max()
print("one matrix moves every position on by 7:", bool(error < 1e-4))

dots = (table[offset:] * table[:-offset]).sum(-1)
print("dot products at distance 7 are all the same:", bool(dots.max() - dots.min() < 1e-3))
spreads = []
for seed in range(5):
    w_q, w_k = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(seed)).double() / 8
    projected = ((table[offset:] @ w_q) * (table[:-offset] @ w_k)).sum(-1)
    spreads.append(((projected.max() - projected.min()) / projected.abs().mean()).item())
print("and after W_q and W_k they still are:", max(spreads) < 1e-3, f"  your guess: {guess_shift}")
assert error < 1e-4 and dots.max() - dots.min() < 1e-3 and min(spreads) > 0.5

# %% [markdown]
# The property is one of the vectors, and the model need not keep it: after two matrices the scores differ from place to
# place. It *can* learn matrices that keep it. RoPE, below, leaves it no choice.

# %% [markdown]
# ## A vector made from the one before
#
# A table ends, a formula is fixed. A third way to make vectors: let a small trained network make each from the one
# before, $p_{t+1} = f(p_t)$. There is one for every position, however far, from a handful of weights. (FLOATER, Liu et
# al. 2020, takes a differential equation for $f$.) Older still: let a recurrent network read the tokens, and give
# *its* outputs to the attention.

# %% name="recursive_positions" tags=["compare"]
from minillm.layers.recursive import RecursivePosition

torch.manual_seed(0)
recursion = RecursivePosition(32)
with torch.no_grad():
    far, near = recursion(torch.arange(600)), recursion(torch.arange(20))
n_weights = sum(parameter.numel() for parameter in recursion.parameters())
print(f"vectors for positions 0 to {len(far) - 1} from {n_weights:,} weights")
print("the first 20 are the same, however many are asked for:", torch.equal(far[:20], near))
assert torch.equal(far[:20], near) and far.isfinite().all() and n_weights == 32 * 32 + 2 * 32

step = far[400]
by_hand = [step := torch.tanh(recursion.weight @ step + recursion.bias).detach() for _ in range(5)]
print("each is made from the one before:", torch.allclose(torch.stack(by_hand), far[401:406], atol=1e-5))
assert torch.allclose(torch.stack(by_hand), far[401:406], atol=1e-5)

gru, order = torch.nn.GRU(32, 32).double(), torch.randperm(16)
x = torch.randn(16, 32).double()
reader = lambda x: sdpa.sdpa(*[gru(x)[0]] * 3)  # noqa: E731
seen_by = {"attention": reordering_error(lambda x: sdpa.sdpa(x, x, x), x, order),
           "recurrent network, then attention": reordering_error(reader, x, order)}
print("sees order:", {name: error > 0.01 for name, error in seen_by.items()})
assert seen_by["attention"] < 1e-12 and seen_by["recurrent network, then attention"] > 0.01

# %% [markdown]
# The price is in the formula: vector 599 has to wait for 599 steps, one after another, where a table is read
# at once. Parallel work was why one left recurrent networks, so this way stayed rare.

# %% [markdown]
# ## Four terms
#
# Add position vectors to tokens, $x_i + p_i$, and multiply the score out:
#
# $$(x_i + p_i) W_q^\top W_k (x_j + p_j)^\top = \underbrace{x_i W x_j^\top}_{\text{content, content}} +
# \underbrace{x_i W p_j^\top}_{\text{content, position}} + \underbrace{p_i W x_j^\top}_{\text{position, content}} +
# \underbrace{p_i W p_j^\top}_{\text{position, position}}, \qquad W = W_q^\top W_k$$
#
# The picture takes $W$ as the identity, random contents and sinusoids, so that the structure shows.

# %% name="four_terms" tags=["compare"]
generator = torch.Generator().manual_seed(0)
x = torch.randn(24, 64, generator=generator).double()
p = sinusoidal(torch.arange(24), 64).double()
w_q, w_k = torch.randn(2, 64, 64, generator=generator).double() / 8
whole = ((x + p) @ w_q.T) @ ((x + p) @ w_k.T).T
parts = {"content": x, "position": p}
terms = {(a, b): (parts[a] @ w_q.T) @ (parts[b] @ w_k.T).T for a in parts for b in parts}
error = (whole - sum(terms.values())).abs().max()
print(f"{len(terms)} terms; their sum is the whole score:", bool(error < 1e-12))
assert error < 1e-12 and len(terms) == 4

figure, panels = plots.new_figure(4, width=10.4, height=2.9)
for axes, (a, b) in zip(panels, terms, strict=True):
    plots.heat_map(axes, parts[a] @ parts[b].T / 64, title=f"{a} · {b}", low=-0.5, high=0.5)
    axes.set_xticks([])
    axes.set_yticks([])
plots.show(figure, alt="Four tables: three look like noise, position with position shows stripes along the diagonal")

# %% [markdown]
# Everything that is called *relative* can be read as a change to these terms: replace what speaks of places $i$ and $j$
# by something that speaks of $i - j$.
#
# | | content, content | content, position | position, content | position, position |
# |---|---|---|---|---|
# | added vectors | $x_i W x_j^\top$ | $x_i W p_j^\top$ | $p_i W x_j^\top$ | $p_i W p_j^\top$ |
# | Shaw | $q_i k_j$ | $q_i a_{j-i}$ | | |
# | Transformer-XL, XLNet | $q_i k_j$ | $q_i r_{i-j}$ | $u k_j$ | $w\, r_{i-j}$ |
# | T5 | $q_i k_j$ | | | $b_{\mathrm{bucket}(i-j)}$ |
# | ALiBi | $q_i k_j$ | | | $-m\,(i-j)$ |
# | RoPE | $q_i R_{j-i} k_j$, all in one | | | |
#
# ### Shaw: a vector for each distance, up to a limit
#
# Shaw et al. train a vector $a_{j-i}$ for each distance and add it to the key (another one to the value). For 10,000
# tokens that would be 19,999 vectors, most of them hardly ever trained. So distances are **clipped**: everything beyond
# `max_distance` counts as `max_distance`.

# %% exercise="layers.shaw.shaw_attention"

# %% name="clipping_bounds_the_table" tags=["compare"]
from minillm.layers.shaw import clipped_distance

limit, seq_len = 16, 10_000
last, everyone = torch.tensor([seq_len - 1]), torch.arange(seq_len)
rows_used = clipped_distance(everyone[::50], everyone, limit).unique()
print(f"distances in {seq_len:,} tokens: {2 * seq_len - 1:,}; rows in the table: {len(rows_used)}")
assert rows_used.tolist() == list(range(2 * limit + 1))

generator = torch.Generator().manual_seed(0)
q, k = torch.randn(2, 1, 1, 1, 8, generator=generator)
key_vectors, nothing = torch.randn(2 * limit + 1, 8, generator=generator), torch.zeros(2 * limit + 1, 8)
first_alone = torch.tensor([1.0, 0.0])[:, None].expand(1, 1, 2, 8)


def share(distance):
    """The weight of a key at this distance, beside the same key at the limit."""
    kv_positions = last - torch.tensor([distance, limit])
    return shaw_attention(q, k.expand(1, 1, 2, 8), first_alone, last, kv_positions, key_vectors, nothing)[0, 0, 0, 0]


for distance in (1, limit - 1, limit + 1, 10 * limit, seq_len - 1):
    print(f"distance {distance:4d} looks like {limit}:", abs(share(distance) - 0.5).item() < 1e-6)
assert all(abs(share(limit + n) - 0.5) < 1e-6 for n in (1, 150, 9000)) and abs(share(limit - 1) - 0.5) > 1e-3

# %% [markdown]
# One table serves any length, and beyond the limit all tokens look equally far away. The bet is that the exact distance
# of what is far does not matter.
#
# ### Transformer-XL: four terms, made relative one by one
#
# Transformer-XL reads a long text in segments and keeps the vectors of the last segment as a memory. Then "position 3"
# exists twice, once in each, and only distances make sense. It keeps all four terms: a sinusoid of the *distance* in
# place of $p_j$, and two trained vectors $u$ and $w$ in place of the query's own position. XLNet took it over.
#
# A query meets each of T distances once, not each pair: one product gives a table with a column for each *distance*,
# and row i has to be moved to the left by T − 1 − i, so that columns belong to *keys*. The published code does that
# without moving a number by hand: add a column of zeros, and read the memory in rows that are one shorter.

# %% name="relative_shift_reads_anew" tags=["compare"]
from minillm.layers.transformer_xl import TransformerXLReading, relative_shift

by_distance = torch.arange(4.0).flip(0).expand(4, 4)  # column n belongs to distance 3 - n
by_key = relative_shift(by_distance)
print("by distance:", by_distance[0].int().tolist(), "in every row")
print("by key:     ", *by_key.int().tolist())
scores = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
shifted = relative_shift(scores)
for i in range(9):
    for j in range(i + 1):  # below the diagonal; what stands above it is hidden by the mask
        assert torch.equal(shifted[..., i, j], scores[..., i, 8 - (i - j)])
assert all(by_key[i, j] == i - j for i in range(4) for j in range(i + 1))

# %% name="segments_with_a_memory" tags=["compare"]
from minillm.layers.attention import Attention
from minillm.layers.cache import KVCache

torch.manual_seed(0)
reading = TransformerXLReading(d_model=32, n_heads=4, head_dim=8)
layer = Attention(32, 4, 4, 8, reading=reading).double()
for parameter in (reading.content_bias, reading.position_bias):
    torch.nn.init.normal_(parameter)
x, positions = torch.randn(1, 48, 32).double(), torch.arange(48)
memory = KVCache(1, 4, 48, 8, dtype=torch.float64)
with torch.no_grad():
    at_once = layer(x, positions)
    elsewhere = layer(x, positions + 1000)
    pieces = zip(x.split(16, dim=1), positions.split(16), strict=True)
    in_segments = torch.cat([layer(piece, places, cache=memory) for piece, places in pieces], dim=1)
print("three segments with a memory are one long text:", bool((in_segments - at_once).abs().max() < 1e-10))
print("1000 places further on, nothing changes:       ", bool((elsewhere - at_once).abs().max() < 1e-10))
assert (in_segments - at_once).abs().max() < 1e-10 and (elsewhere - at_once).abs().max() < 1e-10

# %% [markdown]
# ### T5: a number for each bucket of distances
#
# T5 drops everything but the last term, and makes that a single trained number for each head: $b_{\mathrm{bucket}}$,
# added to the score. Near distances have a bucket each; further out a bucket takes in more and more of them, on a
# logarithmic scale, up to `max_distance`; the last one takes all the rest.
#
# **Predict.** With 32 buckets and a `max_distance` of 128, looking back: do distances 10 and 11 share a bucket? 100 and
# 110? 200 and 5000?

# %%
guess_buckets = "?"  # three times yes or no

# %% exercise="layers.t5_bias.t5_bucket"

# %% name="t5_buckets" tags=["compare"]
from minillm.layers.t5_bias import T5RelativeBias

bucket = t5_bucket(-torch.arange(5001))
shared = {(a, b): bool(bucket[a] == bucket[b]) for a, b in ((10, 11), (100, 110), (200, 5000))}
print("share a bucket:", shared, f"  your guess: {guess_buckets}")
assert list(shared.values()) == [False, True, True] and bucket[:16].tolist() == list(range(16))
assert (bucket[128:] == 31).all() and (bucket.diff() >= 0).all() and bucket[113] == 31

bias = T5RelativeBias(n_heads=8)
n_weights = sum(parameter.numel() for parameter in bias.parameters())
print(f"weights for 8 heads, all layers together: {n_weights} = 32 * 8")
assert n_weights == 32 * 8
near, moved_on = bias(torch.arange(8), torch.arange(8)), bias(torch.arange(8) + 1000, torch.arange(8) + 1000)
assert torch.equal(near, moved_on)

figure, (axes,) = plots.new_figure(height=3.0)
curves = {"bucket": (range(200), bucket[:200].tolist())}
plots.line_chart(axes, curves, "T5's buckets, looking back", "distance, tokens", "bucket")
plots.show(figure, alt="Bucket against distance: a straight line up to 16, then ever longer steps, level from 113 on")

# %% [markdown]
# ## RoPE: turn queries and keys
#
# Now the second way to break a tie. Take one pair of features as a point in the plane, and turn it by $\omega$ for
# every token: the query at position $m$ by $m\omega$, the key at $n$ by $n\omega$. A dot product depends on lengths and
# on the angle between, so turning both by the same amount changes nothing, and what counts is $(m - n)\,\omega$:
#
# $$(R_m q)^\top (R_n k) = q^\top R_m^\top R_n\, k = q^\top R_{n-m}\, k$$

# %% name="one_pair" tags=["compare"]
q, k, speed = (1.0, 0.3), (0.9, -0.2), 0.5
for m, n in ((5, 3), (105, 103), (5, 4)):
    score = dot(turn(q, speed * m), turn(k, speed * n))
    print(f"query at {m:3d}, key at {n:3d}: score {score:.4f}")
same = [dot(turn(q, speed * m), turn(k, speed * (m - 2))) for m in range(2, 2000)]
assert max(same) - min(same) < 1e-9

figure, (left, right) = plots.new_figure(2, width=7.2, height=3.5)
plots.vector_arrows(left, {"q at 5": turn(q, speed * 5), "k at 3": turn(k, speed * 3)}, "distance 2")
plots.vector_arrows(right, {"q at 105": turn(q, speed * 105), "k at 103": turn(k, speed * 103)}, "distance 2, later")
plots.show(figure, alt="Query and key as arrows at positions 5 and 3, then at 105 and 103: the same angle between them")

# %% [markdown]
# One pair is one clock hand: after a whole turn it shows again what it showed before. So a head's $D_h$ features make
# $D_h/2$ pairs, each with its own speed, from one radian a token downwards. They are the sinusoid's speeds, with the
# head's width in place of the model's.
#
# Two functions. First, how far each pair turns:

# %% exercise="layers.rope.rope_angles"

# %% [markdown]
# Then the turning. Which features make a pair is a convention. Here it is i and i + Dh/2, the layout called `half`.

# %% exercise="layers.rope.apply_rope"

# %% [markdown]
# ### Use it: 64 features, any distance
#
# Take one random query and one random key. Keep them 7 tokens apart and move both through a text of 5000; then keep
# the key where it is and move the query alone. (In float64, to see what is exact. In float32 an angle of thousands of
# radians has few digits left after the point; in bfloat16 not even the position itself would be a whole number.)

# %% name="rope_sees_only_the_distance" tags=["compare"]
generator = torch.Generator().manual_seed(0)
q, k = torch.randn(2, 64, generator=generator).double()
inv_freq = rope.rope_inv_freq(64).double()


def turned_score(q_positions, k_positions):
    q_turned, k_turned = (
        apply_rope(x.expand(len(places), 64), places[:, None] * inv_freq)
        for x, places in ((q, q_positions), (k, k_positions))
    )
    return (q_turned * k_turned).sum(-1)


shifts = torch.arange(0, 5001, 25)
together, alone = turned_score(shifts + 7, shifts), turned_score(shifts + 7, 0 * shifts)
print("moved together, the score stays:", bool(together.max() - together.min() < 1e-9))
print("the query moved alone, it stays:", bool(alone.max() - alone.min() < 1e-9))
lengths = apply_rope(q.expand(201, 64), shifts[:, None] * inv_freq).norm(dim=-1)
print("lengths stay:", bool((lengths - q.norm()).abs().max() < 1e-12))
assert together.max() - together.min() < 1e-9 and alone.max() - alone.min() > 1
assert (lengths - q.norm()).abs().max() < 1e-12
by_function = apply_rope(q.float()[None], rope_angles(torch.tensor([7]), 64))
assert torch.allclose(by_function.double(), apply_rope(q[None], torch.tensor([[7]]) * inv_freq), atol=1e-5)

# %% [markdown]
# The name says *rotary position embedding*: what is rotated are queries and keys, in planes of two features, by an
# amount that the position gives. It has nothing to do with words that change their order. Values are not turned: they
# are what is handed over, not what is compared.
#
# ### Two layouts
#
# The paper and the files of the first LLaMA pair *neighbours*, features 2i and 2i + 1. This course and Hugging Face's
# LLaMA pair *halves*. Both are right, each with weights trained for it. Mix them, and the model goes on talking,
# nonsense. The cure is to reorder the rows of $W_q$ and $W_k$ once.

# %% name="layouts_do_not_mix" tags=["compare"]
from minillm.layers.rope_layout import apply_rope_interleaved, interleaved_to_half

generator = torch.Generator().manual_seed(0)
x = torch.randn(1, 12, 32, generator=generator).double()
w_q, w_k = torch.randn(2, 32, 32, generator=generator).double() / 32**0.5  # trained for neighbours, 4 heads
angles = rope_angles(torch.arange(12), 8).double()


def head_scores(w_q, w_k, turn_pairs):
    q, k = (turn_pairs(heads.split_heads(x @ w.T, 4), angles) for w in (w_q, w_k))
    return q @ k.mT


wanted = head_scores(w_q, w_k, apply_rope_interleaved)
mixed = head_scores(w_q, w_k, apply_rope)
converted = head_scores(interleaved_to_half(w_q, 4), interleaved_to_half(w_k, 4), apply_rope)
print("rows of one head, reordered:", interleaved_to_half(torch.arange(8), 1).tolist())
print("the other layout, same weights, same scores:     ", bool((mixed - wanted).abs().max() < 1e-10))
print("the other layout, reordered weights, same scores:", bool((converted - wanted).abs().max() < 1e-10))
assert (mixed - wanted).abs().max() > 0.1 and (converted - wanted).abs().max() < 1e-10

# %% [markdown]
# ### Myth and measurement: "sinusoids repeat on long texts, and RoPE mends that"
#
# It tempts: sines are periodic. But the vector is a whole clock, and RoPE has *the same hands*. How close does the
# sinusoid ever come back to where it began?
#
# **Predict.** Position vectors have 128 features. Among the first 200,000 positions, which is nearest to position 0?

# %%
guess_nearest = "?"  # a position

# %% name="a_sinusoid_does_not_repeat" tags=["compare"]
inv_freq = rope.rope_inv_freq(128).double()
hands = sinusoidal(torch.tensor([1]), 128)[0, 0::2].double()
print("the sinusoid turns as fast as RoPE:", bool((hands - inv_freq.sin()).abs().max() < 1e-6))
assert (hands - inv_freq.sin()).abs().max() < 1e-6

chunks = torch.arange(1, 200_001).double().split(20_000)
back = torch.cat([(2 - 2 * (chunk[:, None] * inv_freq).cos()).sum(-1).sqrt() for chunk in chunks])
nearest = int(back.argmin()) + 1
print(f"nearest to position 0: position {nearest}, {back.min():.2f} away; your guess: {guess_nearest}")
print(f"nearest of all beyond 1000: {back[1000:].min():.2f} away; the slowest hand turns in "
      f"{2 * math.pi / inv_freq[-1]:,.0f} tokens")
assert nearest == 1 and back.min() > 1.9 and back[1000:].min() > 9

# %% [markdown]
# It does not come back: its nearest neighbour is simply the next position. What RoPE has over the sinusoid is something
# else. The score is relative *by construction*, in every layer, with no trained numbers, and a key is turned once, when
# it is made, and can then be cached.
#
# ## ALiBi: a penalty
#
# The third way is the shortest. No vectors, no rotation: each score loses a fixed amount for every token of distance,
# $-m_h (i - j)$. Each head has its own slope $m_h$; with 8 heads they are 1/2, 1/4, ..., 1/256. Nothing is trained.

# %% exercise="layers.alibi.alibi_bias"

# %% name="a_penalty_for_distance" tags=["compare"]
slopes = alibi.alibi_slopes(8)
print("slopes: 1 over", [round(1 / slope) for slope in slopes.tolist()])
positions = torch.arange(24)
bias = alibi_bias(positions, positions, slopes)
causal = masks.causal_mask(positions, positions)
equal = torch.zeros(8, 24, 16)  # queries and keys of zeros: all scores are equal
attn_weights = sdpa.attention_weights(equal, equal, causal, bias)
ratio = (attn_weights[0, -1, -1] / attn_weights[0, -1, -2]).item()
print(f"equal scores, slope 1/2: each key gets {ratio:.4f} times the weight of the one before it")
print(f"e^(1/2) = {math.exp(0.5):.4f}")
assert abs(ratio - math.exp(0.5)) < 1e-4 and slopes.tolist() == [2.0**-n for n in range(1, 9)]
assert torch.equal(bias, alibi_bias(positions + 100, positions + 100, slopes)) and not bias.requires_grad

figure, panels = plots.new_figure(3, width=9.4, height=3.2)
for axes, head in zip(panels, (0, 2, 7), strict=True):
    plots.heat_map(axes, attn_weights[head], title=f"slope 1/{2 ** (head + 1)}", low=0, high=0.4)
    axes.set_xticks([])
    axes.set_yticks([])
plots.show(figure, alt="Weights of equal scores: with slope 1/2 only the last few keys count, with 1/256 all of them")

# %% [markdown]
# ### Added, not multiplied
#
# You will read that the matrix is "multiplied with the attention weights". Try both.

# %% name="alibi_is_added" tags=["compare"]
generator = torch.Generator().manual_seed(0)
q, k = torch.randn(2, 8, 24, 16, generator=generator, dtype=torch.float64)
bias = alibi_bias(positions, positions, slopes.double())
added = sdpa.attention_weights(q, k, causal, bias)
multiplied = sdpa.attention_weights(q, k, causal) * bias
print("added to the scores: every row sums to 1:", bool((added.sum(-1) - 1).abs().max() < 1e-12))
print(f"weights multiplied by it: rows sum to {multiplied.sum(-1).min():.2f} at worst, and none to more than "
      f"{multiplied.sum(-1).max() + 0:.2f}")
assert (added.sum(-1) - 1).abs().max() < 1e-12 and multiplied.sum(-1).max() <= 0 and multiplied.min() < -0.5

of_keys = slopes.double()[:, None, None] * positions  # slope times the key's position: the same in every row
shorter = sdpa.attention_weights(q, k, causal, of_keys)
print("the key's position alone does the same:", bool((shorter - added).abs().max() < 1e-12))
assert (shorter - added).abs().max() < 1e-12

# %% [markdown]
# Multiplied, weights turn negative, and the token itself, at distance 0, gets nothing. The last line is a small trick:
# what is added to a whole row cancels in the softmax, so one row of numbers does for all queries.
#
# ### What a penalty means
#
# **Predict.** All scores are equal and the slope is 1/2. How many of the last tokens hold 99 % of the weight?

# %%
guess_tokens = "?"  # a number of tokens

# %% name="alibi_is_a_soft_window" tags=["compare"]
far_back = torch.arange(3000)
reach = []
for slope in slopes.double():
    mass = softmax.softmax(-slope * far_back.double()).cumsum(0)
    reach.append(int((mass < 0.99).sum()) + 1)
by_formula = [math.ceil(math.log(100) / slope) for slope in slopes.tolist()]
print("tokens that hold 99 %, by head:", reach)
print("ln(100) / slope, rounded up:   ", by_formula, f"  your guess: {guess_tokens}")
assert reach == by_formula and reach[0] == 10 and reach[-1] > 1000

# %% [markdown]
# So ALiBi is a set of soft windows. It does not help a head to look far: it makes it expensive, and a score must be so
# much larger to be heard. That is where its calm on long texts comes from, as you will see, and its weakness at finding
# one thing far back.
#
# ## No positions at all
#
# A causal decoder without any positions works, a little worse. How can it count? Here is a way. Let all scores be
# equal, and let the first token alone have the value 1. Then the average over what is visible is
# $1 / (t + 1)$: each token can read its position from it.

# %% name="a_causal_mask_counts" tags=["compare"]
positions = torch.arange(64)
marker = torch.zeros(64, 1).index_fill(0, torch.tensor(0), 1.0)
equal = torch.zeros(64, 4)
heard = sdpa.sdpa(equal, equal, marker, masks.causal_mask(positions, positions))[:, 0]
print("first outputs:", [round(value, 2) for value in heard[:5].tolist()])
print("positions read off, 1 / output - 1, all right:", bool(torch.equal((1 / heard - 1).round().long(), positions)))
assert torch.equal((1 / heard - 1).round().long(), positions)

# %% [markdown]
# ## All nine, moved by a hundred
#
# The test of *relative* is simple: tell a model that its text begins at position 100, and see whether the logits move.
# Nine models with fresh weights, the same but for their positions:

# %% name="who_minds_where_the_text_begins" tags=["compare"]
from dataclasses import replace

from minillm.bench.variants import harness
from minillm.config import Init
from minillm.config.positions import POSITIONS
from minillm.model.gpt import GPT

token_ids, start = torch.randint(95, (2, 40), generator=torch.Generator().manual_seed(0)), torch.arange(40)
moves, own_weights = {}, {}
with torch.no_grad(), mine.active():
    for name, kind in POSITIONS.items():
        config = replace(harness.BASE, position=kind(), init=Init(0.5, 0.3, "plain"), max_seq_len=256)
        model = GPT(config, torch.Generator().manual_seed(0)).eval()
        logits, moved = model(token_ids, positions=start), model(token_ids, positions=start + 100)
        moves[name] = (moved - logits).abs().max().item()
        own_weights[name] = sum(parameter.numel() for parameter in model.parameters())
bare = own_weights["none"]
for name, move in moves.items():
    print(f"{name:15s} {'moves' if move > 0.1 else 'stays'}   weights of its own: {own_weights[name] - bare:,}")
absolute = {"learned", "sinusoidal", "recursive"}
assert all((move > 0.1) == (name in absolute) for name, move in moves.items())
assert all(move < 0.01 for name, move in moves.items() if name not in absolute)
assert {name for name in moves if own_weights[name] == bare} == {"sinusoidal", "rope", "alibi", "none"}

# %% [markdown]
# And whose code was it, under `mine.active()`?

# %% tags=["compare"]
mine.table()

# %% [markdown]
# ### Find the bug
#
# A step of a generation with a cache: turn the new query and key, and put the key behind those that are stored. The
# first call, with the whole prompt, is right. Then the text gets worse from word to word. **Mend it in its cell**, then
# run the check under it.

# %% name="found_in_a_cache"
def borrowed_step(q, k, cached_keys, inv_freq):
    """Scores of the new queries with all keys, and the keys to keep, as found. One thing is wrong."""
    positions = torch.arange(q.shape[0])
    angles = positions[:, None] * inv_freq
    keys = torch.cat([cached_keys, rope.apply_rope(k, angles)])
    return rope.apply_rope(q, angles) @ keys.T, keys

# %% variant="solved"
def mended_step(q, k, cached_keys, inv_freq):
    """The same, counted on from what is stored."""
    positions = len(cached_keys) + torch.arange(q.shape[0])
    angles = positions[:, None] * inv_freq
    keys = torch.cat([cached_keys, rope.apply_rope(k, angles)])
    return rope.apply_rope(q, angles) @ keys.T, keys


borrowed_step = mended_step  # noqa: F811

# %% name="is_cached_as_uncached" tags=["compare"]
generator = torch.Generator().manual_seed(0)
q, k = torch.randn(2, 9, 8, generator=generator, dtype=torch.float64)
inv_freq, nothing = rope.rope_inv_freq(8).double(), torch.zeros(0, 8, dtype=torch.float64)
angles = torch.arange(9)[:, None] * inv_freq
at_once = rope.apply_rope(q, angles) @ rope.apply_rope(k, angles).T
scores, keys = borrowed_step(q[:5], k[:5], nothing, inv_freq)
prompt_right = torch.allclose(scores, at_once[:5, :5])
steps = []
for t in range(5, 9):
    scores, keys = borrowed_step(q[t : t + 1], k[t : t + 1], keys, inv_freq)
    steps.append(torch.allclose(scores[0], at_once[t, : t + 1]))
if not prompt_right:
    print("Now the prompt goes wrong too: its first token stands at position 0.")
elif not all(steps):
    print("Not mended: the prompt is right, and these steps after it:", steps)
    print("All scores with stored keys are off. Where does the first new token think that it stands?")
else:
    print("Mended: token by token gives the scores of one pass over the whole text.")

# %% [markdown]
# <details>
# <summary>What it was</summary>
#
# `torch.arange(q.shape[0])` counts the tokens of *this call*. With a cache, the only new token of a step got position 0
# each time, so every distance was wrong, and the new keys were all stored as if they stood at the beginning. The
# prompt, which begins at 0, hid it. Count on from the number of keys that are stored, or better, hand `positions` in,
# as this course does everywhere.
#
# How to find it: compare cached with uncached, for several ways to cut the text. It is the test that a cache must pass.
#
# </details>

# %% [markdown]
# ## Beyond the training length
#
# Train on texts of 64 tokens, test on 512. All positions above can be computed there; which of them still work? First
# a small run of your own: the course's small GPT, characters of Python's documentation, 150 steps of training.
#
# **Predict.** RoPE and ALiBi. Which has the lower loss at positions 32 to 64, which it knows? And at 256 to 512?

# %%
guess_known, guess_far = "?", "?"  # RoPE or ALiBi

# %% name="train_short"
from minillm.config import Alibi, AttentionOptions, DynamicNtk, NtkAware, PositionInterpolation, Rope, Yarn

windows = harness.text_windows("validation", 512, 32)
trained = {}
for name, position in (("RoPE", Rope()), ("ALiBi", Alibi())):
    trained[name] = harness.train_variant(replace(harness.BASE, position=position), seed=0, steps=150)
    print(f"{name}: trained on windows of {harness.TRAIN_LEN} characters")

# %% name="test_long"
BUCKETS = {"32-64": slice(32, 64), "64-128": slice(64, 128), "128-256": slice(128, 256), "256-512": slice(256, 512)}


def bucket_means(by_position):
    return {name: by_position[bucket].mean().item() for name, bucket in BUCKETS.items()}


def show_losses(name, means):
    print(f"{name:24s}" + "".join(f"{loss:9.2f}" for loss in means.values()))


tested = {name: harness.loss_by_position(model, windows) for name, model in trained.items()}
losses = {name: bucket_means(by_position) for name, by_position in tested.items()}
print("nats at positions       " + "".join(f"{name:>9s}" for name in BUCKETS))
for name, means in losses.items():
    show_losses(name, means)
rise = {name: means["256-512"] - means["32-64"] for name, means in losses.items()}
print("rise:", {name: round(value, 2) for name, value in rise.items()}, f"  your guess: {guess_known}, {guess_far}")
assert rise["RoPE"] > 0.4 and rise["ALiBi"] < 0.3 and rise["RoPE"] - rise["ALiBi"] > 0.3

# %%
figure, (axes,) = plots.new_figure(height=3.2)
places = range(8, 512, 16)
curves = {name: (places, by_position.view(-1, 16).mean(1).tolist()) for name, by_position in tested.items()}
plots.line_chart(axes, curves, "Trained on 64 tokens, tested on 512", "position", "loss, nats a character")
axes.axvspan(0, 64, color=plots.PALE, alpha=0.45, linewidth=0)
plots.show(figure, alt="Loss by position: RoPE climbs steeply soon after position 64, ALiBi stays nearly level")

# %% [markdown]
# Within the trained length RoPE is the better one. Beyond it RoPE fails, and ALiBi hardly notices.
#
# ### All methods, three seeds
#
# The same for every method, trained longer (400 steps), takes too long for a lesson. It was run once by the command
# that the table names; here is what came out.

# %% name="every_method_beyond_its_length" tags=["compare"]
from statistics import mean

from minillm.bench.results import load_table

table = load_table("positions")
stored = {row["name"]: row["values"] for row in table["rows"]}
print(table["command"], f"  (torch {table['torch']}, {table['machine']}, seeds {table['seeds']})")
print(f"{'nats at positions':22s} {'32-64':>7s} {'64-128':>7s} {'128-256':>8s} {'256-512':>8s}   rise, seed by seed")
methods = [name for name in stored if "+" not in name and "tuned" not in name]
for name in methods:
    means = [mean(stored[name][bucket]) for bucket in BUCKETS]
    rises = " ".join(f"{value:+.2f}" for value in stored[name]["rise"])
    print(f"{name:22s} {means[0]:7.2f} {means[1]:7.2f} {means[2]:8.2f} {means[3]:8.2f}   {rises}")
rises = {name: stored[name]["rise"] for name in methods}
for steady in ("Shaw", "Transformer-XL", "ALiBi"):
    assert max(rises[steady]) < 0.25
assert min(rises["learned"] + rises["RoPE"]) > 1.0 and min(rises["sinusoidal"] + rises["recursive"]) > 0.7
known = {name: stored[name]["32-64"] for name in methods}
assert max(known["RoPE"]) < min(known["ALiBi"] + known["T5, buckets to 32"])
assert max(rises["ALiBi"]) < min(rises["T5, buckets to 32"]) and max(rises["T5, buckets to 32"]) < min(rises["RoPE"])

# %%
figure, panels = plots.new_figure(2, width=9.8, height=4.0)
groups = {
    "added to the tokens, or none": ("learned", "sinusoidal", "recursive", "none"),
    "in the scores": ("RoPE", "ALiBi", "Shaw", "Transformer-XL", "T5, buckets to 128", "T5, buckets to 32"),
}
assert sorted(sum(groups.values(), ())) == sorted(methods)
for axes, (title, names) in zip(panels, groups.items(), strict=True):
    curves = {name: (places, [mean(values) for values in zip(*stored[name]["curve"], strict=True)]) for name in names}
    plots.line_chart(axes, curves, title, "position", "loss, nats a character")
    axes.axvspan(0, 64, color=plots.PALE, alpha=0.45, linewidth=0)
    axes.set_ylim(1.2, 4.4)
alt = "Loss by position, mean of three seeds. Added to the tokens: all rise right after 64. In the scores: RoPE rises "
alt += "most, T5 less; ALiBi, Shaw and Transformer-XL stay level"
plots.show(figure, alt=alt)

# %% [markdown]
# The grey part is what training saw. Read it in three steps:
#
# - Whatever is *added to the tokens* fails at once: the model meets vectors, or sums, that it has never seen. (The
#   sinusoids are added to embeddings times $\sqrt{D}$, as in the paper.)
# - Of those *in the scores*, RoPE is among the best inside and the worst outside. Shaw clips, so there is no new
#   distance; ALiBi makes what is far away unimportant; Transformer-XL holds as well, although its distances are new.
# - T5 depends on its buckets. Those from distance 67 on were never trained in the upper row of the table. In the lower
#   one the last bucket was, and the loss still rises: it lets in hundreds of far keys, all at the same price.
#
# With no positions at all, a model is the worst inside and rises little. Only the growing number of keys is new to it.

# %% [markdown]
# ### Why RoPE fails
#
# "RoPE takes any position, so the text may be as long as memory allows": the first half is true, no error comes. Look
# at the hands, though. In training no distance was above 63.

# %% name="llama_runs_but_does_not_understand" tags=["compare"]
from minillm.config import preset

with torch.no_grad():
    logits = trained["RoPE"](windows[:1, :512])
print("512 tokens in a model trained on 64: no error, all logits finite:", bool(logits.isfinite().all()))
turns = 63 * rope.rope_inv_freq(16) / (2 * math.pi)
incomplete = int((turns < 1).sum())
print("turns that each pair made within 63 tokens:", [round(n, 2) for n in turns.tolist()])
print(f"pairs that never saw a whole turn: {incomplete} of {len(turns)}")
big = preset("llama-7b")
a_token = 2 * big.n_layers * big.n_kv_heads * big.head_dim * 2
print(f"and memory does grow: keys and values of a LLaMA-7B, {a_token:,} bytes a token in 16 bits")
assert logits.isfinite().all() and incomplete == 5 and a_token == 524_288
assert losses["RoPE"]["256-512"] - losses["RoPE"]["32-64"] > 0.4

# %% [markdown]
# A pair that has made several turns has shown every angle there is. The slow ones have not: beyond the trained length
# they come to angles that the model has never met. Is that really the cause? Test it: give the *same weights* a sliding
# window of 64, so that positions go up to 511 as before, and no distance above 63 is ever seen.

# %% name="no_new_distance_no_failure"
narrow = harness.with_config(trained["RoPE"], attention=AttentionOptions(window=64))
losses["RoPE, window of 64"] = bucket_means(harness.loss_by_position(narrow, windows))
for name in ("RoPE", "RoPE, window of 64", "ALiBi"):
    show_losses(name, losses[name])
rise = losses["RoPE, window of 64"]["256-512"] - losses["RoPE, window of 64"]["32-64"]
print(f"the window's rise: {rise:.2f}; part of it is that these are other characters")
assert rise < 0.3 and losses["RoPE"]["256-512"] - losses["RoPE, window of 64"]["256-512"] > 0.3

# %% [markdown]
# Large *positions* do no harm at all; new *distances* do. Nor is it a question of memory, or of gradients that vanish
# in long texts: these are the same weights, asked about the same text.
#
# ## Slow the hands down
#
# If new angles are the trouble, keep the hands within the angles that they know. For texts `factor` times as long:
#
# - **Position interpolation** (PI): all pairs slower by `factor`, as if tokens stood closer together. The slow pairs
#   stay where they have been; but the fast ones, which tell neighbours apart, are slower too.
# - **NTK-aware**: a larger base. The fastest pair stays as it is, the slowest becomes slower by `factor`, those between
#   by something between.
# - **YaRN**: sort the pairs by the turns they made in training. Many turns: leave alone. Less than one: interpolate.
#   Between: a ramp. And scores become a little larger, since attention over more keys is flatter.
#
# The new base of the second must make the slowest pair slower by *exactly* `factor`. Find it:

# %% exercise="layers.rope_scaling.ntk_base"

# %% [markdown]
# And the third:

# %% exercise="layers.rope_scaling.yarn_inv_freq"

# %% name="three_ways_to_slow_down" tags=["compare"]
from minillm.layers import rope_scaling

head_dim, factor = 128, 4.0
plain = rope.rope_inv_freq(head_dim)
slowed = {
    "PI": rope_scaling.interpolated_inv_freq(plain, factor),
    "NTK-aware": rope.rope_inv_freq(head_dim, ntk_base(10_000.0, factor, head_dim)),
    "YaRN": yarn_inv_freq(head_dim, 10_000.0, factor, original_len=2048),
}
for name, inv_freq in slowed.items():
    share = inv_freq / plain
    print(f"{name:9s} fastest pair: {share[0]:.2f} of its speed   slowest: {share[-1]:.2f}")
    assert abs(share[-1] - 1 / factor) < 1e-4 and abs(share[0] - (1 / factor if name == "PI" else 1)) < 1e-4
amplitude = rope_scaling.yarn_amplitude(factor)
print(f"YaRN: queries and keys times {amplitude:.3f} each, scores times {amplitude**2:.3f}")
assert abs(amplitude - (0.1 * math.log(factor) + 1)) < 1e-9

figure, (axes,) = plots.new_figure(height=3.0)
curves = {name: (range(64), (inv_freq / plain).tolist()) for name, inv_freq in slowed.items()}
plots.line_chart(axes, curves, "Slowed down for texts 4 times as long", "pair, from fast to slow", "share of its speed")
plots.show(figure, alt="PI is level at a quarter; NTK-aware falls from 1; YaRN is 1, then a ramp, then a quarter")

# %% [markdown]
# **Predict.** Your RoPE model, without any further training, is given texts of 256. Sort: as it is, PI, NTK-aware,
# YaRN. Which has the lowest loss at positions 128 to 256?

# %%
guess_best = "?"  # "as it is", "PI", "NTK-aware" or "YaRN"

# %% name="stretch_without_training"
scalings = {"PI": PositionInterpolation(4.0), "NTK-aware": NtkAware(4.0), "YaRN": Yarn(4.0, 64)}
stretched = {"as it is": trained["RoPE"]}
stretched |= {name: harness.with_config(trained["RoPE"], position=Rope(scaling=s)) for name, s in scalings.items()}
untuned = {name: bucket_means(harness.loss_by_position(model, windows)) for name, model in stretched.items()}
print("nats at positions       " + "".join(f"{name:>9s}" for name in BUCKETS))
for name, means in untuned.items():
    show_losses(name, means)
best = min(untuned, key=lambda name: untuned[name]["128-256"])
print(f"lowest at 128-256: {best}; your guess: {guess_best}")
assert untuned["as it is"]["128-256"] - untuned[best]["128-256"] > 0.2 and best != "PI"
assert untuned["PI"]["32-64"] - untuned["as it is"]["32-64"] > 0.2, "PI's price, within the trained length"

# %% [markdown]
# NTK-aware and YaRN help at once. PI, untrained, spoils even what worked: at factor 4, neighbours look like a quarter
# of a token apart. It was proposed together with some further training, and so it should be measured. Twenty-five steps
# on windows of 256, with PI, with YaRN, and, to be fair, with nothing changed:

# %% name="stretch_and_tune"
from minillm.training.loop import train

tuned = {}
for name in ("as it is", "PI", "YaRN"):
    model = harness.with_config(stretched[name])
    train(model, harness.text_batches(99, 256, 4), harness.small_recipe(25, 1e-3), steps=25, report_every=25)
    tuned[name] = bucket_means(harness.loss_by_position(model.eval(), windows))
print("25 steps later          " + "".join(f"{name:>9s}" for name in BUCKETS))
for name, means in tuned.items():
    show_losses(name, means)
gain = {name: untuned[name]["128-256"] - tuned[name]["128-256"] for name in tuned}
print("gained at 128-256:", {name: round(value, 2) for name, value in gain.items()})
assert gain["PI"] > 0.2 and gain["as it is"] > 0.2 and tuned["YaRN"]["128-256"] < untuned["as it is"]["128-256"] - 0.2

# %% [markdown]
# Read it with care: most of what tuning brings, it brings to the model as it is, too. Seeing long texts is a large part
# of the cure, and papers that leave out this line credit the formula with it. The stored table has the same for a
# length of 512, with a factor of 8 and three seeds:

# %% name="stretched_three_seeds" tags=["compare"]
print(f"{'nats at positions':28s} {'32-64':>7s} {'128-256':>8s} {'256-512':>8s}")
for name, values in stored.items():
    if name.startswith("RoPE"):
        print(f"{name:28s} {mean(values['32-64']):7.2f} {mean(values['128-256']):8.2f} {mean(values['256-512']):8.2f}")
at_the_end = {name: values["256-512"] for name, values in stored.items()}
assert max(at_the_end["RoPE, tuned"]) < min(at_the_end["RoPE"]) - 1, "long texts alone help most"
assert max(at_the_end["RoPE + YaRN, tuned"]) < min(at_the_end["RoPE, tuned"]), "and YaRN helps further"
assert max(at_the_end["RoPE + NTK for 16x"]) < min(at_the_end["RoPE + NTK"]), "NTK wants room to spare"
assert max(at_the_end["RoPE + window of 64"]) < min(at_the_end["RoPE + YaRN"])

# %% [markdown]
# Tuned without any scaling, RoPE comes most of the way; with YaRN it comes all of it. NTK-aware wants room to spare:
# its middle pairs are slowed by less than the factor, so at eight times the length a factor of 16 does better than one
# of 8. And without any training nothing beats the window of 64, which has simply forgotten what is further back. A low
# loss on a long text is no proof that it is used: ask for something that was said long ago, and see.
#
# ### A base that grows with the text
#
# Why stretch a short text at all? **Dynamic** scaling takes the factor from the length so far: none up to the trained
# length, then ever more. The catch is in the cache: a key that was turned when the text had 100 tokens was turned by
# other angles than the query of token 300.

# %% name="dynamic_base_and_old_keys" tags=["compare"]
lengths = (32, 64, 128, 256)
bases = [rope_scaling.dynamic_ntk_base(10_000.0, 1.0, 16, length, 64) for length in lengths]
print("base by length of the text:", {length: round(base) for length, base in zip(lengths, bases, strict=True)})
assert bases[0] == bases[1] == 10_000.0 and abs(bases[3] - rope_scaling.ntk_base(10_000.0, 4.0, 16)) < 1e-6

generator = torch.Generator().manual_seed(0)
q, k = torch.randn(2, 1, 16, generator=generator)
key_now, key_then, query = (
    rope.apply_rope(x, rope.rope_angles(torch.tensor([place]), 16, base))
    for x, place, base in ((k, 90, bases[3]), (k, 90, bases[2]), (q, 255, bases[3]))
)
change = ((query * key_now).sum() - (query * key_then).sum()).abs().item()
print("a key cached at length 128 still fits at length 256:", change < 1e-3)
dynamic = harness.with_config(trained["RoPE"], position=Rope(scaling=DynamicNtk(1.0, 64)))
refused = False
try:
    dynamic.new_cache(1, 256)
except ValueError:
    refused = True
print("so this course's model refuses a cache:", refused)
assert change > 0.01 and refused

# %% [markdown]
# ### A myth: "a GAN can learn to write longer texts"
#
# You will find it in lists of cures. A GAN trains a generator through a discriminator, by gradients that flow through
# what was generated. With pixels they do. With tokens?

# %% name="a_sampled_token_passes_no_gradient" tags=["compare"]
generator = torch.Generator().manual_seed(0)
logits = torch.randn(1, 50, generator=generator, requires_grad=True)
table = torch.randn(50, 16, generator=generator)
judge = torch.randn(16, generator=generator)
token = torch.multinomial(logits.softmax(-1), 1, generator=generator)[0]
verdict = (table[token] @ judge).sum()  # what a discriminator would make of the sampled token
print("the sampled token requires a gradient:", token.requires_grad)
print("the verdict on it requires one:       ", verdict.requires_grad)
F.cross_entropy(logits, torch.tensor([7])).backward()
print("the usual loss has one of length", round(logits.grad.norm().item(), 1))
assert not token.requires_grad and not verdict.requires_grad and logits.grad.norm() > 0.1

# %% [markdown]
# Sampling cuts the thread. And if it did not, the generator would stand before the same unseen distances. Nor does a
# larger model help, or more layers: the cause is in the positions, and the cure is too.
#
# ## Explore
#
# The clock of RoPE, with eight pairs. Move query and key: the hands run, and only the angle between them counts. Then
# move them far apart, look at the slow pairs, and choose a way to slow down. A small base makes all hands fast; a large
# one (LLaMA 3 takes 500,000: Grattafiori et al. 2024, section 3.2) makes the slow ones slower.

# %% name="rope_clock"
from minillm.course.scenes.rope_clock import clock_controls, clock_picture, explored_inv_freq, relative_scores
from minillm.course.widgets import Explorer

near, far = relative_scores(torch.tensor([1, 100]), explored_inv_freq(10_000.0, "none")).tolist()
assert near > far
Explorer(
    clock_picture,
    alt="Eight dials with a query's and a key's hand, from fast to slow; a curve of score against distance that "
    "falls in waves",
    **clock_controls(),
)

# %% [markdown]
# ## Interview corner
#
# Each answer names the cell above that proves it. Say yours aloud before you unfold one.

# %% [markdown] interview="04"

# %% [markdown]
# ## Remember
#
# 1. Attention is blind to order. Add a vector to the token (absolute), or let the score depend on the distance: by
#    turning queries and keys (RoPE), or by adding a number (T5, ALiBi).
# 2. RoPE's score depends on the distance alone, without a trained number. Mind the layout of the pairs, and count
#    positions on when you cache.
# 3. *Defined* beyond the trained length is not *good* beyond it. In RoPE it is new distances that hurt: keep them away
#    with a window, or slow the hands down (NTK-aware, YaRN) and train a little.
#
# **Where next.** Lesson 05 is about what keeps a deep stack of such layers trainable. Lesson 10 caches keys, turned and
# unturned; lesson 16 runs a real model whose RoPE has your functions in it.
