# %% [markdown]
# # 03 Attention variants
#
# You will build what became of attention when texts grew long: shared keys (MQA, GQA), one latent for all heads (MLA),
# a sliding window, flash attention, and attention without softmax (linear attention, RWKV, Infini-attention). Each
# saves something. You will count what, and measure what it costs.
#
# | | |
# |---|---|
# | **You need** | lesson 02: `sdpa`, masks, heads; a little of lesson 07 helps, where a small GPT is trained |
# | **Time** | about two hours for the exercises, as much again for the rest |
# | **Runs on** | any CPU with 2 GB; all cells together less than a minute, a good part of it three small trainings |
# | **Sources** | Shazeer 2019 (MQA); Ainslie et al. 2023 (GQA), section 2; DeepSeek-V2 2024, section 2.1 |
# | | Milakov and Gimelshein 2018 (online softmax); Dao et al. 2022 and Dao 2023 (FlashAttention), algorithms 1 |
# | | Liu, Zaharia and Abbeel 2023 (Ring Attention); Katharopoulos et al. 2020 (linear attention), equations 3 to 20 |
# | | Peng et al. 2023 (RWKV), equation 16; Munkhdalai et al. 2024 (Infini-attention), section 2.1 |

# %% [markdown]
# ## Three bills
#
# Attention as you built it in lesson 02 is exact, simple, and sends three bills. It **keeps** the keys and values of
# every token that it has read, because the next token will want to look at them. It **computes** a score for every pair
# of tokens. And it **lays out** all these scores at once, as a table of T × T.
#
# Here is the first bill, for a model of the size of LLaMA-2 70B: 80 layers, 64 heads of width 128, two bytes a number.

# %% name="what_must_be_kept"
import itertools
import math
from dataclasses import replace
from unittest.mock import patch

import torch
import torch.nn.functional as F

from minillm.course import check, hint, mine, plots, reset, solution  # noqa: F401
from minillm.course.scenes.cost_explorer import growth_picture, readable_amount
from minillm.layers import attention_cost, gqa_conversion, heads, masks, mla, pairwise, sdpa, softmax  # noqa: F401
from minillm.layers import linear_attention as la
from minillm.layers.attention_cost import AttentionSizes

torch.set_num_threads(1)  # these matrices are small: a second thread would only wait for the first
seventy = AttentionSizes(
    d_model=8192, n_heads=64, head_dim=128, n_kv_heads=8, kv_rank=512, rope_dim=64, window=4096, segment_len=2048)
kinds = ("MHA", "GQA", "MQA", "MLA", "window", "linear")
figure = growth_picture(seventy, 80, kinds, (80 * 2**30, "80 GiB: the memory of one large GPU"))
plots.show(figure, alt="Memory kept against tokens read: MHA reaches 2.5 TiB at a million tokens, MQA 40 GiB")

# %% [markdown]
# Plain multi-head attention (MHA) fills a large GPU with the memory of *one* text. Each other curve is an idea of this
# lesson:
#
# - **share** the keys and values: MQA, GQA, and in a cleverer way MLA. The curve sinks, its slope stays;
# - **look less far**: a sliding window. The curve ends;
# - **sum up** instead of listing: linear attention, RWKV, Infini-attention. The curve is flat from the start;
# - and one idea that is not in this picture, because it changes neither the result nor what is kept: **flash
#   attention** pays the third bill, the table of scores.
#
# Keep the three bills apart, and most confusion about this subject is gone.

# %% [markdown]
# ## Sharing keys
#
# Two query heads, one key head. Does sharing not make the heads alike? Take two keys in the plane and two queries:
#
# $$k_0 = (1, 0), \quad k_1 = (0, 1), \qquad q_0 = (2, 0), \quad q_1 = (0, 2)$$
#
# By hand (and without the division by √head_dim): head 0 has scores 2 and 0, so its weights are
# $e^2/(e^2+1) = 0.88$ and 0.12. Head 1 has them the other way round.

# %% name="shared_keys_separate_questions" tags=["compare"]
shared = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
questions = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
shared_weights = sdpa.attention_weights(questions, shared, scale=1.0)
for head, row in enumerate(shared_weights.tolist()):
    print(f"head {head} gives key 0 {row[0]:.2f} and key 1 {row[1]:.2f}")
assert shared_weights[0, 0] > 0.85 and shared_weights[1, 1] > 0.85

figure, (axes,) = plots.new_figure(height=2.6)
plots.attention_arrows(axes, shared_weights, ["head 0", "head 1"], ["key 0", "key 1"], "one list, two questions")
plots.show(figure, alt="Two query heads above two shared keys: head 0 reads mostly key 0, head 1 mostly key 1")

# %% [markdown]
# What a head *asks* stays its own; only the list that is searched is shared. How far one shares is one number,
# `n_kv_heads` (Hk):
#
# | | key/value heads | query heads that share one |
# |---|---|---|
# | MHA, multi-head | H | 1 |
# | GQA, grouped-query | between | H / Hk |
# | MQA, multi-query | 1 | H |
#
# In code, the shared heads are copied just before the products, so that everything after that is as in lesson 02. Which
# copy goes to whom? *Neighbouring* query heads share.

# %% exercise="layers.heads.repeat_kv"

# %% [markdown]
# ### Use it: fewer bytes, the same numbers
#
# A grouped layer is a multi-head layer in which several heads of keys are equal. So the numbers must be the same if you
# write those heads out, and the two ends of the scale must be MHA and MQA themselves.

# %% name="fewer_bytes_same_numbers" tags=["compare"]
generator = torch.Generator().manual_seed(0)
q = torch.randn(2, 8, 16, 32, generator=generator)
positions = torch.arange(16)
causal = masks.causal_mask(positions, positions)
for n_kv_heads in (8, 2, 1):
    k, v = torch.randn(2, 2, n_kv_heads, 16, 32, generator=generator)
    grouped = sdpa.sdpa(q, repeat_kv(k, 8 // n_kv_heads), repeat_kv(v, 8 // n_kv_heads), causal)
    head_by_head = [
        F.scaled_dot_product_attention(q[:, h], k[:, h * n_kv_heads // 8], v[:, h * n_kv_heads // 8], is_causal=True)
        for h in range(8)]
    difference = (grouped - torch.stack(head_by_head, dim=1)).abs().max().item()
    print(f"{n_kv_heads} key heads for 8 query heads: as if written out, difference below 1e-5: {difference < 1e-5}")
    assert difference < 1e-5

for name, n_kv_heads in (("64 key heads (MHA)", 64), ("8 key heads (GQA)", 8)):
    n_bytes = 80 * 2 * n_kv_heads * 128 * 2
    print(f"LLaMA-2 70B with {name}: {n_bytes:9,} bytes a token")
assert 80 * 2 * 64 * 128 * 2 == 2_621_440 and 80 * 2 * 8 * 128 * 2 == 327_680 == 2_621_440 // 8

# %% [markdown]
# And for the shape of a model of 7 billion weights, with 32 layers and 32 heads of 128, all three side by side. The
# course's own cost functions count; their tests compare them with layers that run.

# %% name="bytes_a_token" tags=["compare"]
seven = AttentionSizes(
    d_model=4096, n_heads=32, head_dim=128, n_kv_heads=8, kv_rank=512, rope_dim=64, window=4096, segment_len=2048)
per_token = {kind: 2 * 32 * attention_cost.kept_floats(kind, seven, 1) for kind in ("MHA", "GQA", "MQA")}
for kind, n_bytes in per_token.items():
    print(f"{kind}: {n_bytes:7,} bytes a token, {readable_amount(4096 * n_bytes, 'B'):>7} for 4,096 tokens")
assert per_token == {"MHA": 524_288, "GQA": 131_072, "MQA": 16_384}

figure, (axes,) = plots.new_figure(height=2.6)
plots.bar_chart(axes, {kind: n / 1024 for kind, n in per_token.items()}, "7B shape, bfloat16", "KiB a token", ".0f")
plots.show(figure, alt="KiB kept a token in a 7B model: 512 with MHA, 128 with GQA and 8 key heads, 16 with MQA")

# %% [markdown]
# **Predict.** Multi-query attention with 32 query heads keeps 32 times less. By how much does the number of
# multiplications in scores and weighted sums shrink?

# %%
guess_factor = "?"  # a number: how many times fewer

# %% name="one_key_head_same_multiplications" tags=["compare"]
from minillm.course.ledger import MemoryLedger

one_query = torch.randn(1, 32, 1, 128, generator=generator)
counted = {}
for n_kv_heads in (32, 1):
    k, v = torch.randn(2, 1, n_kv_heads, 500, 128, generator=generator)
    with MemoryLedger() as ledger:
        sdpa.sdpa(one_query, repeat_kv(k, 32 // n_kv_heads), repeat_kv(v, 32 // n_kv_heads))
    counted[n_kv_heads] = ledger.flops // 2
    print(f"key heads {n_kv_heads:2d}: {2 * k.numel():9,} numbers kept, {counted[n_kv_heads]:,} multiplications")
print(f"multiplied: {counted[32] / counted[1]:.0f} time as many; your guess: {guess_factor}")
assert counted[1] == counted[32] == 2 * 32 * 500 * 128
projections = {kind: attention_cost.matrix_numbers(kind, seven) for kind in ("MHA", "MQA")}
print("weights of one layer's projections:", projections)
assert projections["MHA"] == 4 * 4096**2 and projections["MQA"] == 2 * 4096**2 + 2 * 4096 * 128

# %% [markdown]
# Not at all: every query head still meets every key. What shrinks is what must be *fetched*. Writing one token, a
# machine waits for memory and not for arithmetic, which is why sharing makes writing quicker all the same. (The
# projections shrink as well, because k_proj and v_proj are narrower.)
#
# ### From a finished model
#
# Must one train anew for fewer key heads? Ainslie et al. took a finished multi-head model, replaced each group of key
# heads by its **mean**, and trained on for 5 % of the original steps.

# %% exercise="layers.gqa_conversion.mean_pool_kv"

# %% [markdown]
# Three small GPTs learn to tell stories with four key heads. Then their heads are pooled, with your function.

# %%
from minillm.config import Init, Mlp, ModelConfig, Rope
from minillm.model.gpt import GPT
from minillm.text import batches
from minillm.text.stories import StoryLanguage
from minillm.training.loop import train
from minillm.training.recipe import Recipe

language = StoryLanguage()
small = ModelConfig(
    vocab_size=language.tokenizer.vocab_size, max_seq_len=512, d_model=64, n_layers=2, n_heads=4, n_kv_heads=4,
    head_dim=16, ffn=Mlp(128), position=Rope(), init=Init(0.1, 0.05, "zero"))
new_stories = batches.story_batch(language, 64, torch.Generator().manual_seed(99))


def train_on_stories(model, seed, steps, learning_rate):
    generator = torch.Generator().manual_seed(seed)
    endless = (batches.story_batch(language, 16, generator) for _ in itertools.count())
    recipe = Recipe(learning_rate=learning_rate, warmup_steps=steps // 6, decay_share=0.4, dtype="fp32")
    train(model, endless, recipe, steps=steps, report_every=steps)
    return model.eval()


@torch.no_grad()
def story_loss(model):
    return F.cross_entropy(model(new_stories[0]).flatten(0, 1), new_stories[1].flatten()).item()

# %% name="three_models_of_stories"
storytellers = [
    train_on_stories(GPT(small, torch.Generator().manual_seed(seed)), seed, 60, 8e-3) for seed in range(3)]
told = [story_loss(model) for model in storytellers]
print("nats a word on new stories, four key heads:", [round(loss, 2) for loss in told])
assert max(told) < 1.3

# %% [markdown]
# **Predict.** Halving the key heads by pooling, without any further training: does the loss stay, rise a little, or
# rise a lot? And after 10 further steps, where 60 made the model?

# %%
guess_pooled, guess_healed = "?", "?"  # nats a word

# %% name="pooled_and_healed"
def pooled_model(model, n_kv_heads):
    other = GPT(replace(small, n_kv_heads=n_kv_heads))
    other.load_state_dict(gqa_conversion.pool_state(model.state_dict(), 4, n_kv_heads))
    return other.eval()


converted, healed = {}, {}
with mine.active():
    for n_kv_heads in (2, 1):
        converted[n_kv_heads] = [pooled_model(model, n_kv_heads) for model in storytellers]
        pooled = [story_loss(model) for model in converted[n_kv_heads]]
        for seed, model in enumerate(converted[n_kv_heads]):
            train_on_stories(model, seed + 50, 10, 3e-3)
        healed[n_kv_heads] = [story_loss(model) for model in converted[n_kv_heads]]
        print(f"{n_kv_heads} key head(s): pooled {[round(loss, 2) for loss in pooled]}, "
              f"10 steps later {[round(loss, 2) for loss in healed[n_kv_heads]]}")
        for before, after, later in zip(told, pooled, healed[n_kv_heads], strict=True):
            assert after > before + 0.1 and later < before + 0.6 * (after - before)
fresh = story_loss(train_on_stories(GPT(small, torch.Generator().manual_seed(7)), 57, 10, 8e-3))
print(f"a fresh model after 10 steps: {fresh:.2f}; your guesses for 2 heads: {guess_pooled}, then {guess_healed}")
assert fresh > max(healed[1]) + 0.2

# %% name="whose_code_pooled" tags=["compare"]
mine.table()

# %% [markdown]
# Pooling does damage: heads of a finished model are not alike, and their mean is none of them. But nearly everything
# else in the model is intact, so a few steps mend most of it, where a fresh model has hardly begun.
#
# What would the mistake 0 1 0 1 have done, in place of 0 0 1 1? Nothing crashes, so look at the loss.

# %% name="wrong_groups"
with patch.object(heads, "repeat_kv", lambda x, n_repeats: x.repeat(1, n_repeats, 1, 1)):
    wrong = [story_loss(model) for model in converted[2]]
print("groups as trained:", [round(loss, 2) for loss in healed[2]], "  0 1 0 1:", [round(loss, 2) for loss in wrong])
assert all(bad > good + 0.1 for good, bad in zip(healed[2], wrong, strict=True))

# %% [markdown]
# ### A myth: "grouped queries give the model a longer context"
#
# It tempts, because with GQA longer texts *fit*. But room is not understanding. The storytellers have seen
# one story at a time. Give them many in a row, to the models with four key heads and to those with two:

# %% name="fewer_keys_reach_no_further"
rows = new_stories[0]
long_text = torch.cat([row[row != language.tokenizer.pad_id] for row in rows])[:513][None]
with torch.no_grad():
    surprise = {}
    for name, models in (("four key heads", storytellers), ("two key heads", converted[2])):
        losses = [
            F.cross_entropy(model(long_text[:, :-1])[0], long_text[0, 1:], reduction="none") for model in models]
        surprise[name] = torch.stack(losses).mean(0).unflatten(0, (8, 64)).mean(1)
        first, rest = surprise[name][0].item(), surprise[name][2:].mean().item()
        print(f"{name}: words 1 to 64 cost {first:.1f} nats each, words from 129 on {rest:.1f}")
        assert rest > first + 0.4

figure, (axes,) = plots.new_figure(height=2.9)
curves = {name: (range(32, 512, 64), means.tolist()) for name, means in surprise.items()}
plots.line_chart(axes, curves, "Stories in a row, trained on one at a time", "place in the text", "nats a word")
plots.show(figure, alt="Loss against place in the text: both models get far worse after the first hundred words")

# %% [markdown]
# Both get lost at the same place. GQA makes the bill smaller; how far a model can *use* its context is decided by its
# training and by its positions (lesson 04).

# %% [markdown]
# ## One latent for all heads
#
# MQA goes too far for some: one key head is all that is left. DeepSeek's **multi-head latent attention** (MLA) keeps
# little and shares nothing. Of each token it keeps one short vector, the **latent** $c$, made by a matrix *down*; every
# head has matrices of its own that bring it *up* again, to its keys and values:
#
# $$k_h = W^{UK}_h\, c, \qquad v_h = W^{UV}_h\, c$$
#
# But then, for each new token, all keys of all old tokens would have to be made again? No, and this is the pretty part.
# A head needs the key only for a dot product with its query:
#
# $$q \cdot (W c) = (W^\top q) \cdot c$$
#
# Bring the *query* down once, and compare it with the latents themselves. With numbers:

# %% name="down_instead_of_up" tags=["compare"]
query = torch.tensor([1.0, 1.0, 2.0])
up = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])  # from a latent of 2 to a key of 3
latents = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, -1.0], [2.0, 2.0]])
keys_made = latents @ up.T
brought_down = query @ up
print("keys made:         ", keys_made.tolist())
print("scores with keys:  ", (keys_made @ query).tolist())
print("query brought down:", brought_down.tolist())
print("scores with latents", (latents @ brought_down).tolist())
assert torch.equal(keys_made @ query, latents @ brought_down)

# %% [markdown]
# Check one by hand: the first key is (1, 3, 4), its score 1 + 3 + 8 = 12; the query brought down is (2, 5), and
# 2 · 1 + 5 · 2 = 12.
#
# The same works behind the softmax: a weighted sum of $W c_j$ is $W$ times the weighted sum of the $c_j$. So the
# latents are keys *and* values, one list for all heads: to the cache it looks like MQA, to the heads like MHA.
#
# ### Why the rotation stands apart
#
# One thing gets in the way. RoPE turns queries and keys by their positions (lesson 04), and a turned key $R_j W c$
# needs $W^\top R_{j-i}\, q$: the matrix to absorb would be another one for every distance.

# %% name="a_rotation_cannot_be_absorbed" tags=["compare"]
from minillm.layers.rope import apply_rope, rope_angles

w_up = torch.randn(4, 3, generator=generator, dtype=torch.float64)
for distance in (0, 1, 5):
    turned_columns = apply_rope(w_up.T, rope_angles(torch.tensor([distance]), 4).double())
    absorbed = w_up.T @ turned_columns.T  # what stands between two latents at this distance
    print(f"distance {distance}: top left entry {absorbed[0, 0]:.2f}")
    assert (distance == 0) == torch.allclose(absorbed, w_up.T @ w_up)

# %% [markdown]
# So MLA gives the rotation features of its own: a query has a second, short part that is turned, and so has the key.
# That rotated key is *one for all heads* and is kept beside the latent. A score is the sum of both parts. Per token and
# layer, `kv_rank + rope_dim` numbers are kept.
#
# | | shape | |
# |---|---|---|
# | `q`, `q_rope` | (B, H, Tq, Dh), (B, H, Tq, Dr) | both parts of the queries |
# | `latent`, `k_rope` | (B, Tk, R), (B, Tk, Dr) | what is kept; no heads here |
# | `w_uk`, `w_uv` | (H, Dh, R), (H, Dv, R) | up, a matrix a head |
#
# The long way is `mla.mla_naive`. You write the short one.

# %% exercise="layers.mla.mla_absorb"

# %% [markdown]
# ### Use it
#
# **Predict.** DeepSeek-V2 has 128 heads of width 128, a latent of 512 and a rotated key of 64. Multi-head attention of
# that shape would keep 2 · 128 · 128 = 32,768 numbers a token and layer. How many key heads might GQA have at most, to
# keep no more than MLA does?

# %%
guess_groups = "?"

# %% name="latents_in_place_of_keys" tags=["compare"]
torch.manual_seed(0)
layer = mla.MultiHeadLatentAttention(d_model=64, n_heads=4, head_dim=16, rope_dim=8, v_dim=16, kv_rank=24)
x, positions = torch.randn(2, 20, 64), torch.arange(20)
angles = rope_angles(positions, 8)
cache = layer.new_cache(batch_size=2, capacity=20)
with mine.active(), torch.no_grad():
    at_once = layer(x, positions, angles)  # the naive form: keys and values are made
    steps = [layer(x[:, i : i + 1], positions[i : i + 1], angles[i : i + 1], cache) for i in range(20)]  # yours
difference = (torch.cat(steps, dim=1) - at_once).abs().max().item()
print(f"token by token from latents, as all at once with keys: {difference < 1e-5}")
print(f"kept a token: {cache.floats_per_token} numbers; multi-head attention: {2 * 4 * 16}")
assert difference < 1e-5 and cache.floats_per_token == 24 + 8

deepseek = replace(seven, d_model=5120, n_heads=128, n_kv_heads=2)
kept = {kind: attention_cost.kept_floats(kind, deepseek, 1) for kind in ("MHA", "MLA", "GQA")}
print("DeepSeek-V2, a token and layer:", kept)
print(f"MLA keeps as much as GQA with {kept['MLA'] / (2 * 128)} key heads; your guess: {guess_groups}")
assert kept == {"MHA": 32_768, "MLA": 576, "GQA": 512}

# %% [markdown]
# Nothing is free: in the absorbed form a score is a dot product of R + Dr numbers in place of Dh, so each step
# multiplies *more*. MLA trades arithmetic, of which a machine that writes text has plenty, for memory.

# %% [markdown]
# ## Looking less far
#
# The next idea is blunt: a query sees only the last `window` keys. Whatever falls out of the window can be thrown away.

# %% name="a_window_slides" tags=["compare"]
positions = torch.arange(8)
seen_by_7 = masks.sliding_window_mask(positions[7:], positions, 3)[0].nonzero()[:, 0]
figure, panels = plots.new_figure(3, width=8.4, height=3.4)
for axes, window in zip(panels, (8, 3, 1), strict=True):
    seen = masks.sliding_window_mask(positions, positions, window)
    plots.heat_map(axes, seen, title=f"window {window}: {int(seen.sum())} pairs", low=0, high=1)
    axes.set_xlabel("key", fontsize=9)
panels[0].set_ylabel("query", fontsize=9)
assert torch.equal(masks.sliding_window_mask(positions, positions, 8), masks.causal_mask(positions, positions))
print("the query at position 7, window 3, sees", seen_by_7.tolist())
plots.show(figure, alt="Masks of eight tokens: a full triangle, a band three wide, the diagonal alone")

# %% exercise="layers.masks.sliding_window_mask"

# %% [markdown]
# ### Use it: layers hand on
#
# A model with a window is not blind beyond it. In the second layer, a token reads from neighbours that have themselves
# read from theirs.
#
# **Predict.** Window 4, three layers. How many tokens back can the last output still hear?

# %%
guess_reach = "?"

# %% name="layers_hand_on" tags=["compare"]
def reach_of(n_layers, window, n_tokens=24):
    """How far back a change is still heard by the last output."""
    positions = torch.arange(n_tokens)
    mask = sliding_window_mask(positions, positions, window)

    def stack(x):
        for _ in range(n_layers):
            x = x + sdpa.sdpa(x, x, x, mask, scale=0.1)
        return x[-1]

    x = torch.randn(n_tokens, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    heard = [t for t in range(n_tokens) if not torch.equal(stack(x + 0.5 * (positions == t)[:, None]), stack(x))]
    return n_tokens - 1 - min(heard)


reaches = {n_layers: reach_of(n_layers, window=4) for n_layers in (1, 2, 3)}
print("layers: tokens back", reaches, f"  your guess for three: {guess_reach}")
assert reaches == {n: n * (4 - 1) for n in (1, 2, 3)}
assert reach_of(1, window=24) == 23, "as wide as the text: full attention"

# %% [markdown]
# L layers of window w reach L · (w − 1) tokens back. That is how far information *can* travel, hand to hand; how much
# of it survives the way is another question, which the table near the end answers for a small model.
#
# ### Find the bug
#
# Somebody calls a fast kernel for windows. Its manual says: "query i attends to keys from i − left to i, both
# included". The text comes out nearly right, and a rolling cache of `window` slots gives slightly different numbers
# than no cache. **Mend the function in its cell**, then run the check under it.

# %% name="borrowed_window"
def kernel(q, k, v, left):
    """A fast kernel, as in its manual: query i sees keys i - left to i, both included."""
    i = torch.arange(q.shape[-2])
    distance = i[:, None] - i
    return F.scaled_dot_product_attention(q, k, v, attn_mask=(distance >= 0) & (distance <= left))


def window_attention(q, k, v, window):
    """Each query sees `window` keys, itself included. One thing is wrong."""
    return kernel(q, k, v, left=window)

# %% variant="solved"
def mended_window_attention(q, k, v, window):
    """The query itself is one of the window's keys."""
    return kernel(q, k, v, left=window - 1)


window_attention = mended_window_attention  # noqa: F811

# %% name="does_it_see_too_much" tags=["compare"]
x = torch.randn(12, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
found = window_attention(x, x, x, 4)
changed = x.clone()
changed[7] += 1.0
heard = (window_attention(changed, changed, changed, 4) - found).abs().amax(-1)
last = heard.nonzero().max().item()
positions = torch.arange(12)
right = sdpa.sdpa(x, x, x, masks.sliding_window_mask(positions, positions, 4))
print(f"token 7 is changed; the last output that hears it stands at {last}")
if last > 10:
    print("Not mended: with a window of 4, tokens 7 to 10 may hear token 7, and token 11 may not.")
elif not torch.allclose(found, right):
    print("Nothing is heard too late, but the numbers are not those of the mask: is the window too narrow now?")
else:
    print("Mended: the numbers are those of your mask.")

# %% [markdown]
# <details>
# <summary>What it was</summary>
#
# `window` counts the query's own key, `left` does not: the call must say `left=window - 1`. One key too many among
# thousands changes little, so nobody notices, until two ways of computing the same model are compared. This very slip
# stood for a long time between the plain and the fast path of a popular library (Hugging Face transformers, issues
# 29623 and 39408). Change one token, and look who hears it: the test takes three lines.
#
# </details>

# %% [markdown]
# ## The table that need not exist
#
# Everything so far has changed *what* attention computes, or what it keeps. Now the opposite: the same numbers, to the
# last digits, in a fraction of the memory.
#
# The trouble is the table of scores. Queries, keys, values and output are T rows each; the table is T × T, one for each
# head.
#
# **Predict.** One layer, 32 heads, 32,768 tokens, two bytes a number. How many gigabytes (2³⁰ bytes) is the table of
# attention weights, and how many are q, k, v and the output together, at `head_dim` 128?

# %%
guess_table, guess_rows = "?", "?"  # GiB

# %% name="the_table_and_the_rows" tags=["compare"]
def gibibytes(seq_len, n_heads=32, head_dim=128, bytes_per_number=2):
    """(the table of weights, q and k and v and the output) of one layer, in GiB."""
    per_head = n_heads * bytes_per_number / 2**30
    return seq_len**2 * per_head, 4 * seq_len * head_dim * per_head


lengths = [2**n for n in range(10, 18)]
table, rows = zip(*map(gibibytes, lengths), strict=True)
print(f"32,768 tokens: table {table[5]:.0f} GiB, rows {rows[5]:.0f} GiB; your guess: {guess_table}, {guess_rows}")
assert table[5] == 64 and rows[5] == 1

figure, (axes,) = plots.new_figure(height=3.2)
curves = {"table of weights": (lengths, table), "q, k, v and output": (lengths, rows)}
plots.line_chart(axes, curves, "One layer: what grows with T, and what with T²", "tokens", "GiB")
axes.set_xscale("log", base=2)
axes.set_yscale("log", base=2)
plots.show(figure, alt="Two lines on log axes: the table of weights rises twice as steeply as the rows")

# %% [markdown]
# Nobody has that memory for one layer, and training would have to keep the tables of *all* layers for the backward
# pass. But who needs the table? The output needs, for each query, one weighted average. Could you compute it while the
# scores pass by, and forget each as soon as it has been used?
#
# ## One row, in pieces
#
# A weighted sum is no problem: add as you go. The softmax is, for two reasons. It divides by the sum of *all*
# exponentials; and it subtracts the largest of *all* scores, which you do not know before you have seen them all.
#
# The division can wait until the end. The maximum can be corrected: if a larger score turns up,
#
# $$e^{s - m_\mathrm{new}} = e^{s - m_\mathrm{old}} \cdot e^{m_\mathrm{old} - m_\mathrm{new}} ,$$
#
# and the last factor is the same for everything summed so far. So three things are carried along the row: the largest
# score so far $m$, the sum $\ell = \sum e^{s - m}$, and the undivided output $o = \sum e^{s - m}\, v$.
#
# Scores 2, 1, 3 with values 10, 20, 30, one at a time:

# %% name="one_row_in_pieces" tags=["compare"]
scores_in_turn, values_in_turn = [2.0, 1.0, 3.0], [10.0, 20.0, 30.0]
m, total, out = -math.inf, 0.0, 0.0
print("score  largest   factor   sum     output/sum")
for score, value in zip(scores_in_turn, values_in_turn, strict=True):
    larger = max(m, score)
    factor = math.exp(m - larger)
    total = total * factor + math.exp(score - larger)
    out = out * factor + math.exp(score - larger) * value
    m = larger
    print(f"{score:5.0f}  {m:7.0f}  {factor:7.3f}  {total:6.3f}  {out / total:8.2f}")
whole = softmax.softmax(torch.tensor(scores_in_turn)) @ torch.tensor(values_in_turn)
assert abs(out / total - whole.item()) < 1e-5
print(f"the softmax of the whole row gives {whole.item():.2f}")

# %% [markdown]
# Look at the last line of the table: when 3 came, everything before was multiplied by $e^{-1} = 0.368$, once. No old
# score was looked at again. (Milakov and Gimelshein 2018 called it the *online softmax*.)
#
# Now for many queries at once, and n keys at a time instead of one.

# %% exercise="layers.online_softmax.online_softmax"

# %% [markdown]
# ### Use it: any cut will do
#
# A row of 1,000 scores with a standard deviation of 40: `exp` of the largest does not fit into float32. Feed it to your
# function in pieces of various lengths.

# %% name="any_cut_gives_the_same_row" tags=["compare"]
generator = torch.Generator().manual_seed(0)
row = 40 * torch.randn(1, 1000, generator=generator)
v = torch.randn(1000, 4, generator=generator)
print("exp of the largest score fits into float32:", bool(row.max().exp() < math.inf))
want = softmax.softmax(row) @ v
for piece in (1, 7, 64, 1000):
    running = torch.full((1, 1), -math.inf), torch.zeros(1, 1), torch.zeros(1, 4)
    for start in range(0, 1000, piece):
        running = online_softmax(row[:, start : start + piece], v[start : start + piece], *running)
    error = (running[2] / running[1] - want).abs().max().item()
    print(f"pieces of {piece:4d}: the same as at once:", error < 1e-5)
    assert error < 1e-5 and torch.equal(running[0], row.amax(-1, keepdim=True))
assert row.max() > 89

# %% [markdown]
# ## Flash attention
#
# With that, the table falls apart into **tiles**: take 64 queries, let all keys pass by in groups of 64, and carry
# maximum, sum and output along. One tile exists at a time.

# %% name="tiles_in_turn"
from minillm.course.scenes.tile_pictures import ring_picture, tile_states, tiles_picture
from minillm.layers import flash, tiles
from minillm.layers.tiles import PositionTable

moments = {
    "all may see all": tile_states(6, 15, causal=False),
    "causal": tile_states(6, 12, causal=True),
}
picture = tiles_picture(moments)
alt = "Two tables of 6 by 6 tiles: one tile is alive, those before it are forgotten; the causal half is never made"
plots.show(picture, alt=alt)

# %% [markdown]
# On a GPU the tile stays in the small fast memory beside the arithmetic units (SRAM). The whole table would have to be
# written to the large slow one (HBM) and read back, once as scores and once as weights. That traffic, not the
# arithmetic, is what attention mostly waits for; hence *IO-aware* (Dao et al. 2022).
#
# A mask is a T × T table too, so it comes as a rule: `PositionTable(masks.causal_mask, positions, positions)` is the
# causal mask, made one tile at a time.

# %% exercise="layers.flash.flash_forward"

# %% [markdown]
# ### Use it: exact, and how much memory?
#
# `flash.flash_attention` calls your function and has the arguments of `sdpa`. A ledger writes down every tensor that
# comes into being, crosses it out when it dies, and counts multiplications and additions. T = 512, head_dim 64, tiles
# of 64.
#
# **Predict.** Is the result approximately or exactly that of `sdpa`? How many multiplications fewer does it take?

# %%
guess_error, guess_share = "?", "?"  # largest difference; FLOPs of flash divided by FLOPs of sdpa

# %% name="flash_is_exact_without_the_table" tags=["compare"]
from minillm.course.ledger import kept_for_backward

generator = torch.Generator().manual_seed(0)
q, k, v = (torch.randn(1, 1, 512, 64, generator=generator) for _ in range(3))
results, largest, flops = {}, {}, {}
for name, attend in (("plain", sdpa.sdpa), ("flash", flash.flash_attention)):
    with mine.active(), MemoryLedger() as ledger:
        results[name] = attend(q, k, v)
    largest[name], flops[name] = ledger.largest, ledger.flops
difference = (results["flash"] - results["plain"]).abs().max().item()
print(f"largest difference below 1e-5: {difference < 1e-5}; your guess: {guess_error}")
print(f"FLOPs, flash / plain: {flops['flash'] / flops['plain']}; your guess: {guess_share}")
print("elements of the largest tensor:", largest, f"  q has {q.numel():,}")
assert difference < 1e-5 and flops["flash"] == flops["plain"]
assert largest == {"plain": 512 * 512, "flash": 512 * 64} and 512 * 512 == 262_144
scores_alive = 64 * 64
print(f"scores alive at a time: {scores_alive:,} in place of {512 * 512:,}")

# %% [markdown]
# Exact, and not one multiplication saved. The largest tensor is the output itself. Two things are *not* true of flash
# attention, then: it is no approximation, and it is not cheaper in arithmetic. Under a causal mask it may skip the
# tiles of the future, but that is the mask's merit.
#
# ### And backwards?
#
# A backward pass needs the weights, and they are gone. But they can be had back at any time: flash attention keeps one
# number a query, $\mathrm{lse} = \log \sum_j e^{s_j} = m + \log \ell$, and then
#
# $$\mathrm{attn\_weight}_{ij} = e^{\,s_{ij} - \mathrm{lse}_i} ,$$
#
# tile by tile, from q and k. **Recompute instead of remember.** One more product of q and k is the price: forward and
# backward take 7 matrix products in place of 6.

# %% name="memory_grows_with_t_not_t_squared"
def one_training_step(attend, seq_len):
    """(peak bytes, bytes kept for the backward pass, FLOPs) of attention, forward and backward."""
    generator = torch.Generator().manual_seed(seq_len)
    q, k, v = (torch.randn(1, 2, seq_len, 32, generator=generator).requires_grad_() for _ in range(3))
    with MemoryLedger() as ledger, kept_for_backward() as kept:
        attend(q, k, v).sum().backward()
    return ledger.peak_bytes, kept["bytes"], ledger.flops


lengths, steps = (64, 128, 256, 512), {"plain": [], "flash": []}
for name, attend in (("plain", sdpa.sdpa), ("flash", flash.flash_attention)):
    steps[name] = [one_training_step(attend, seq_len) for seq_len in lengths]
    peaks, kept, _ = zip(*steps[name], strict=True)
    print(f"{name}: twice the tokens, peak x {peaks[3] / peaks[2]:.1f}, kept for backward x {kept[3] / kept[2]:.1f}")
more = steps["flash"][3][2] / steps["plain"][3][2]
print(f"FLOPs forward and backward, flash / plain: {more:.3f} = 7/6")

# %% tags=["compare"]
peak = {name: [step[0] for step in measured] for name, measured in steps.items()}
kept = {name: [step[1] for step in measured] for name, measured in steps.items()}
assert peak["plain"][3] > 3.5 * peak["plain"][2] and peak["flash"][3] < 2.2 * peak["flash"][2]
assert kept["plain"][3] > 3.5 * kept["plain"][2] and kept["flash"][3] < 2.2 * kept["flash"][2]
assert abs(more - 7 / 6) < 1e-9
print("tokens doubled: plain attention's memory grows about fourfold, flash attention's at most about twofold")

figure, (left, right) = plots.new_figure(2, width=8.4, height=3.2)
for axes, measured, title in ((left, peak, "alive at one time, at most"), (right, kept, "kept for the backward pass")):
    curves = {name: (lengths, [size / 2**20 for size in sizes]) for name, sizes in measured.items()}
    plots.line_chart(axes, curves, title, "tokens", "MiB")
plots.show(figure, alt="Bytes by length: plain attention bends upwards, flash attention stays at the bottom")

# %% [markdown]
# ### What it saves: trips to the slow memory
#
# Count the bytes that cross between the slow memory and the fast one. In plain attention the whole table crosses four
# times: scores written, scores read, weights written, weights read. In tiles it never leaves the fast memory, but all
# keys and values are read again for each tile of queries. So larger tiles mean fewer trips, and the size of the fast
# memory sets the limit.

# %% name="bytes_that_travel" tags=["compare"]
seq_len, head_dim = 4096, 64
traffic = {"plain": flash.attention_traffic(seq_len, head_dim, n_heads=1, bytes_per_number=2)}
for tile_len in (16, 64, 256):
    traffic[f"tiles of {tile_len}"] = flash.attention_traffic(seq_len, head_dim, 1, 2, tile_len)
arithmetic = 4 * seq_len**2 * head_dim
print("                MiB moved   FLOPs for each byte")
for name, moved in traffic.items():
    print(f"{name:14s}  {moved / 2**20:9.1f}  {arithmetic / moved:12.0f}")
assert traffic["tiles of 16"] > traffic["plain"] > traffic["tiles of 64"] > 3 * traffic["tiles of 256"]
fast = {tile_len: 2 * (4 * tile_len * head_dim + tile_len**2) / 1024 for tile_len in (16, 64, 256)}
print("fast memory that a tile needs, KiB:", {tile_len: round(size) for tile_len, size in fast.items()})

figure, (axes,) = plots.new_figure(height=2.8)
plots.bar_chart(axes, {name: moved / 2**20 for name, moved in traffic.items()}, "4,096 tokens, one head", "MiB moved")
axes.set_ylim(0, 290)
plots.show(figure, alt="Bars of bytes moved: plain 130 MiB, tiles of 16 even more, tiles of 64 and 256 far less")

# %% [markdown]
# Tiles of 16 move *more* than no tiles at all. An A100 does 312 · 10¹² half-precision FLOPs a second (its data sheet)
# and fetches 1.5 to 2 · 10¹² bytes (Dao et al. 2022, section 2.1): 150 to 200 FLOPs for each byte. What offers fewer
# keeps it waiting. So the gain depends on the machine, and on a CPU, whose caches do some of this unasked, it looks
# different again. What does not depend on the machine is the memory.
#
# ### Another bug to find
#
# Here is a flash attention from the wild: tiles of keys, sums carried along, division at the end. Its own test passed.
# What is wrong? **Mend it in its cell**, then run the check under it.

# %% name="flash_found_in_the_wild"
def borrowed_flash(q, k, v, tile_len=16):
    """Attention over tiles of keys, as found. One thing is wrong."""
    weight_sum, weighted = 0.0, 0.0
    for columns in tiles.tile_slices(k.shape[-2], tile_len):
        unnormalized = (q @ k[..., columns, :].mT / q.shape[-1] ** 0.5).exp()
        weight_sum = weight_sum + unnormalized.sum(dim=-1, keepdim=True)
        weighted = weighted + unnormalized @ v[..., columns, :]
    return weighted / weight_sum

# %% variant="solved"
def mended_flash(q, k, v, tile_len=16):
    """The same with a running maximum."""
    lead = (*q.shape[:-1], 1)
    running = torch.full(lead, -math.inf), torch.zeros(lead), torch.zeros(*q.shape[:-1], v.shape[-1])
    for columns in tiles.tile_slices(k.shape[-2], tile_len):
        tile = q @ k[..., columns, :].mT / q.shape[-1] ** 0.5
        running = online_softmax(tile, v[..., columns, :], *running)
    return running[2] / running[1]


borrowed_flash = mended_flash  # noqa: F811

# %% name="does_it_overflow" tags=["compare"]
generator = torch.Generator().manual_seed(0)
q, k, v = torch.randn(3, 40, 64, generator=generator)
right = {}
for size in (1, 2, 20):
    found, want = borrowed_flash(size * q, size * k, v), sdpa.sdpa(size * q, size * k, v)
    right[size] = torch.allclose(found, want, atol=1e-3)
    largest_score = ((size * q) @ (size * k).T / 8).max().item()
    print(f"largest score {largest_score:5.0f}: right {right[size]}, NaN in {found.isnan().any(-1).sum()} of 40 rows")
limits = {dtype: math.log(torch.finfo(dtype).max) for dtype in (torch.float32, torch.float16)}
print("exp overflows above", {str(dtype): round(limit, 1) for dtype, limit in limits.items()})
assert right[1] and right[2], "with small scores it was right all along"
print("Mended." if right[20] else "Not mended. Which step can overflow?")

# %% [markdown]
# <details>
# <summary>What it was</summary>
#
# No running maximum. On paper it cancels, and with fresh weights, whose scores are of order 1, no test notices.
# But `exp` overflows, in float32 above 88.7 and in float16 above 11.1, and inf / inf is NaN. Trained models have such
# scores. A test of attention that does not try large scores is half a test.
#
# </details>

# %% [markdown]
# ## A long text in blocks
#
# There is another way to save memory that looks much the same: cut the text into blocks and let each block attend to
# itself. T · b scores in place of T². Is it the same thing?
#
# **Predict.** 64 tokens, blocks of 16, no mask. Token 20 changes. How many outputs move, in each of the two ways?

# %%
guess_isolated, guess_exact = "?", "?"  # outputs that move, of 64

# %% [markdown]
# For the exact way you need one more function. Let the same queries look at one block of keys after another. Each look
# gives an average, and the log-sum-exp of its scores: how much weight stands behind that average. With both you can
# join two answers as if there had been one look.

# %% exercise="layers.blockwise.merge_attention"

# %% name="isolated_blocks_lose_what_merged_blocks_keep" tags=["compare"]
from minillm.layers import blockwise

moved, errors = {}, {"isolated": [], "merged": []}
for seed in range(5):
    generator = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, 64, 32, generator=generator)
    changed_k, changed_v = k.clone(), v.clone()
    changed_k[20] += 1.0
    changed_v[20] += 1.0
    full = sdpa.sdpa(q, k, v)
    for name, attend in (("isolated", blockwise.isolated_blocks), ("merged", blockwise.merged_blocks)):
        with mine.active():
            before, after = attend(q, k, v, 16), attend(q, changed_k, changed_v, 16)
        errors[name].append(((before - full).norm() / full.norm()).item())
        moved[name] = (before - after).abs().amax(-1) > 0
print(f"error beside full attention: isolated above 0.3: {min(errors['isolated']) > 0.3}, "
      f"merged below 1e-5: {max(errors['merged']) < 1e-5}")
print({name: f"{int(rows.sum())} outputs move" for name, rows in moved.items()},
      f"  your guess: {guess_isolated}, {guess_exact}")
assert min(errors["isolated"]) > 0.3 and max(errors["merged"]) < 1e-5
assert moved["isolated"].nonzero()[:, 0].tolist() == list(range(16, 32)) and moved["merged"].all()

# %% [markdown]
# Blocks by themselves are another function, and a poorer one: nothing passes from block to block. Merged blocks *are*
# attention. Does the loss matter? Ask for a word that lies further back than a block is long: tokens drawn at random
# from 8, and at each place the one to name is the token 24 places ago. Blocks hold 16.

# %%
def recall_logits(params, token_ids, attend):
    """One attention layer that finds its place by position and hands over the token that stands there."""
    tok_emb, q_places, k_places, lm_head = params
    positions = torch.arange(token_ids.shape[1])
    rule = PositionTable(masks.causal_mask, positions, positions)
    q, k = (places.expand(len(token_ids), -1, -1) for places in (q_places, k_places))
    return attend(q, k, tok_emb[token_ids], 16, rule) @ lm_head.T


def train_recall(attend, seed, distance=24, n_steps=40):
    """Train, and give the share of right answers on new tokens."""
    generator = torch.Generator().manual_seed(seed)
    sizes = ((8, 16), (48, 32), (48, 32), (8, 16))
    params = [(torch.randn(*size, generator=generator) / 4).requires_grad_() for size in sizes]
    optimizer = torch.optim.Adam(params, lr=5e-2)
    for _ in range(n_steps):
        token_ids = torch.randint(8, (16, 48), generator=generator)
        logits = recall_logits(params, token_ids, attend)[:, distance:]
        optimizer.zero_grad()
        F.cross_entropy(logits.flatten(0, 1), token_ids[:, :-distance].flatten()).backward()
        optimizer.step()
    with torch.no_grad():
        token_ids = torch.randint(8, (200, 48), generator=generator)
        answers = recall_logits(params, token_ids, attend)[:, distance:].argmax(-1)
    return (answers == token_ids[:, :-distance]).double().mean().item()

# %% name="what_lies_beyond_the_block_is_lost"
shares = {}
for name, attend in (("isolated", blockwise.isolated_blocks), ("merged", blockwise.merged_blocks)):
    shares[name] = [train_recall(attend, seed) for seed in range(3)]
    print(f"{name:9s} right answers, three seeds: {[f'{share:.0%}' for share in shares[name]]}")
print("a blind guess is right in 1 of 8, 12.5%")
assert all(abs(share - 1 / 8) < 0.04 for share in shares["isolated"]) and min(shares["merged"]) > 0.9

# %% [markdown]
# With blocks alone it is guessing, however long it trains: the answer is not there. So when somebody says that long
# texts are "processed in blocks", ask which: isolated (cheap, lossy), merged (exact, all T² scores), or something in
# between that carries information over, such as a sliding window, a recurrent state or a memory.
#
# ## A ring of devices
#
# Merging makes one more thing possible. If the text is too long for one device, let each of N devices keep T/N of the
# tokens. Its queries stay at home; keys and values travel round in a ring, and every device merges what it finds.

# %% name="who_holds_whose_keys" tags=["compare"]
n_devices = 4
holders = [[(device - step) % n_devices for device in range(n_devices)] for step in range(n_devices)]
for device in range(n_devices):
    met = {row[device] for row in holders}
    assert met == set(range(n_devices)), "every device meets every block"
print("each device meets every block, after", len(holders) - 1, "exchanges")
plots.show(ring_picture(holders), alt="Four devices in columns, four steps in rows: each step every block moves one on")

# %% [markdown]
# Device r holds block r − step (counted round the ring). Your function is *one* of these devices.

# %% exercise="layers.ring.ring_attention"

# %% [markdown]
# ### Use it: what does each device hold, send and compute?
#
# T = 512 and head_dim 64, four devices. `simulate_ring` lets your function be each of them in turn, and counts.

# %% name="ring_is_exact_and_shares_the_memory" tags=["compare"]
from minillm.layers import ring

generator = torch.Generator().manual_seed(0)
q, k, v = torch.randn(3, 512, 64, generator=generator)
positions = torch.arange(512)
full = sdpa.sdpa(q, k, v, masks.causal_mask(positions, positions))
work = {}
for name, share in (("contiguous", ring.contiguous_shares), ("mirrored pairs", ring.zigzag_shares)):
    with mine.active():
        out, counts = ring.simulate_ring(q, k, v, share(512, 4), masks.causal_mask)
    assert (out - full).abs().max() < 1e-5
    work[name] = [count.score_pairs for count in counts]
floats = {count.kv_bytes // 4 for count in counts}
print("the same as on one device:", bool((out - full).abs().max() < 1e-5))
print("numbers of keys and values on a device:", floats, "of", k.numel() + v.numel())
print("bytes that a device sends:", {count.sent_bytes for count in counts})
print("pairs of query and key that a device computes:", work)
print(f"the last stretch has {work['contiguous'][3] / work['contiguous'][0]:.1f} times the work of the first")
assert floats == {16_384} and k.numel() + v.numel() == 65_536
assert sum(work["contiguous"]) == sum(work["mirrored pairs"]) == 512 * 513 // 2
assert len(set(work["mirrored pairs"])) == 1

# %% name="who_has_how_much_to_do"
figure, panels = plots.new_figure(2, width=8.0, height=2.8)
for axes, (name, pairs) in zip(panels, work.items(), strict=True):
    thousands = {f"device {i}": n / 1000 for i, n in enumerate(pairs)}
    plots.bar_chart(axes, thousands, f"causal, {name}", "thousand pairs", numbers=".0f")
    axes.set_ylim(0, 65)
plots.show(figure, alt="Pairs to compute: rising from device to device with stretches, equal with mirrored pairs")

# %% [markdown]
# The memory of a device falls with their number, and the arithmetic in all stays the same. But under a causal mask the
# device with the end of the text has about seven times as much to do as the one with its beginning, and everybody
# waits for it. Give each device a stretch from the front and one from the back, and the work is equal. The positions
# travel with the keys, so nothing else has to change.
#
# And for real: two processes, which talk to each other through the network interface of this machine.

# %% name="two_real_processes" tags=["compare"]
from minillm.training.ring import ring_over_processes

shares_of_two = ring.zigzag_shares(512, 2)
out, sent = ring_over_processes(q, k, v, shares_of_two, masks.causal_mask)
print("two processes give what one gives:", bool((out - full).abs().max() < 1e-5))
own_bytes = 256 * (64 + 64) * 4 + 256 * 8
print("bytes sent by each:", sent, "= 256 keys and values in float32, and 256 positions")
assert (out - full).abs().max() < 1e-5 and sent == [own_bytes] * 2

# %% [markdown]
# Flash attention works *inside* each device, the ring *between* devices. They are not two names for one thing: flash
# saves trips between two memories of one device; the ring adds up the memories of many. Both rest on the same fact: a
# softmax can be put together from pieces.

# %% [markdown]
# ## Attention without softmax
#
# Why must all keys be kept at all? Because of the exponential. $e^{q \cdot k}$ cannot be taken apart into something of
# q and something of k, so no key can be dealt with before the query is known. Replace it by something that can:
#
# $$\mathrm{weight}_{ij} = \phi(q_i) \cdot \phi(k_j), \qquad \phi(x) = \mathrm{elu}(x) + 1$$
#
# $\phi$ makes every feature positive, so the weights are. And now the query can be pulled out of the sums:
#
# $$\mathrm{out}_i = \frac{\sum_{j \le i} (\phi(q_i) \cdot \phi(k_j))\, v_j}{\sum_{j \le i} \phi(q_i) \cdot \phi(k_j)}
# = \frac{\phi(q_i)\, M_i}{\phi(q_i) \cdot z_i}, \qquad M_i = \sum_{j \le i} \phi(k_j)\, v_j^\top, \quad
# z_i = \sum_{j \le i} \phi(k_j)$$
#
# $M$ and $z$ do not know the query, and they do not grow. One feature and two tokens, by hand: with
# $\phi(k) = 1, 3$, $v = 10, 20$ and $\phi(q) = 2$, the weights are 2 and 6, the average is (20 + 120) / 8 = 17.5; and
# from the sums, $2 \cdot 70 / (2 \cdot 4)$ = 17.5.

# %% name="one_sum_for_all_queries" tags=["compare"]
k_features, values = torch.tensor([[1.0], [3.0]]), torch.tensor([[10.0], [20.0]])
memory, normalizer = k_features.T @ values, k_features.sum(0)
q_features = torch.tensor([2.0])
weights = q_features * k_features[:, 0]
print("weights", weights.tolist(), " average", (weights @ values / weights.sum()).item())
print("M", memory.item(), " z", normalizer.item(), " read", (q_features @ memory / (q_features @ normalizer)).item())
assert (weights @ values / weights.sum()).item() == (q_features @ memory / (q_features @ normalizer)).item() == 17.5

# %% exercise="layers.linear_attention.linear_attention"

# %% [markdown]
# ### Use it: three ways to the same numbers
#
# A table of weights, running sums over the whole text, or one token at a time with a state: the same function. (This is
# why it can be trained like attention and run like a recurrent network.)

# %% name="table_sums_and_steps" tags=["compare"]
generator = torch.Generator().manual_seed(0)
q, k, v = torch.randn(3, 2, 4, 30, 16, generator=generator, dtype=torch.float64)
by_sums = linear_attention(q, k, v)
positions = torch.arange(30)
by_table = la.linear_attention_table(q, k, v, masks.causal_mask(positions, positions))
memory, normalizer, rows = torch.zeros(2, 4, 16, 16).double(), torch.zeros(2, 4, 16).double(), []
for t in range(30):
    now = slice(t, t + 1)
    memory, normalizer = la.memory_write(memory, normalizer, k[:, :, now], v[:, :, now])
    rows.append(la.memory_read(memory, normalizer, q[:, :, now]))
for name, other in (("table", by_table), ("steps", torch.cat(rows, dim=2))):
    print(f"sums and {name} agree:", bool((by_sums - other).abs().max() < 1e-12))
    assert (by_sums - other).abs().max() < 1e-12
print("numbers a head in the state:", memory[0, 0].numel() + normalizer[0, 0].numel(), "  at any length")
assert memory[0, 0].numel() + normalizer[0, 0].numel() == 272

# %% [markdown]
# ### What a matrix can hold
#
# Softmax attention keeps all keys and can find any of them again. A matrix of 16 × 16 numbers cannot. Write n random
# pairs of key and value into it, ask for each value by its key, and see how far the answer is off, as a share of the
# value's size. "Best" is the best that *any* 16 × 16 matrix can do (least squares).
#
# **Predict.** At which n does even the best matrix begin to fail?

# %%
guess_capacity = "?"

# %% name="a_matrix_memory_is_lossy"
def recall_errors(n, seed):
    """Relative error of n values that are asked for by their keys: linear attention, best matrix, softmax."""
    keys, values = torch.randn(2, n, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    keys = keys / keys.norm(dim=-1, keepdim=True) * 4  # all of one length: a key is most like itself
    state = torch.zeros(16, 16).double(), torch.zeros(16).double()
    recalled = la.memory_read(*la.memory_write(*state, keys, values), keys)
    best = keys @ torch.linalg.lstsq(keys, values).solution
    softmax = sdpa.sdpa(keys, keys, values, scale=8.0)
    return [((found - values).norm() / values.norm()).item() for found in (recalled, best, softmax)]


counts = (2, 4, 8, 16, 32, 64, 128, 256)
errors = torch.tensor([[recall_errors(n, seed) for seed in range(5)] for n in counts]).mean(1)
for n, row in zip(counts, errors.tolist(), strict=True):
    print(f"{n:3d} pairs: linear attention {row[0]:.2f}, best matrix {row[1]:.2f}, softmax over all keys {row[2]:.2f}")
print(f"the best matrix begins to fail above 16, its number of rows; your guess: {guess_capacity}")
assert errors[:4, 1].max() < 1e-6 and errors[5, 1] > 0.8 and errors[:, 2].max() < 0.05
assert (errors[1:, 0] > errors[:-1, 0]).all() and errors[-1, 0] > 0.95
per_head = 16 * 16 + 16
print(f"kept of a million tokens, a head: {per_head} numbers; a cache of keys and values: {2 * 16 * 1_000_000:,}")
assert per_head == 272

# %%
figure, (axes,) = plots.new_figure(height=3.2)
names = ("linear attention's memory", "best 16 × 16 matrix", "softmax over all keys")
plots.line_chart(axes, {name: (counts, errors[:, i].tolist()) for i, name in enumerate(names)},
                 "What comes back", "pairs stored", "relative error")
axes.set_xscale("log", base=2)
axes.set_xticks(counts, [str(n) for n in counts])
plots.show(figure, alt="Recall error: linear memory high from the start, best matrix 0 up to 16, softmax 0")

# %% [markdown]
# A state of fixed size is a summary, not a record. That is the whole bargain of this section: constant cost, lossy
# recall. What is kept well depends on what the model learns to write.
#
# ### Infini-attention: both at once
#
# **Infini-attention** cuts the text into segments. Within a segment it is softmax attention as usual; when a segment
# is over, its keys and values go into a matrix memory like the one above, and are dropped. A gate for each head mixes
# what the memory says with what the segment says. One can run it segment by segment, or train it with two masks:

# %% name="segments_or_masks" tags=["compare"]
from minillm.layers import infini

gate = torch.tensor([-1.0, 0.0, 1.0, 2.0], dtype=torch.float64)
for segment_len in (5, 10, 30):
    by_segments = infini.infini_attention(q, k, v, gate, segment_len)
    by_masks = infini.infini_masked(q, k, v, gate, segment_len)
    difference = (by_segments - by_masks).abs().max().item()
    print(f"segments of {segment_len:2d}: recurrence and masks agree: {difference < 1e-12}")
    assert difference < 1e-12
for n_tokens in (10_000, 1_000_000):
    kept = attention_cost.kept_floats("Infini", replace(seven, head_dim=16, n_heads=1, segment_len=2_000), n_tokens)
    print(f"{n_tokens:9,} tokens read: {kept} numbers kept a head")
    assert kept == 272

# %% [markdown]
# So "infinite context" means: any length at constant memory. It does not mean that everything is remembered; you have
# just seen how much a memory of that size gives back.
#
# ### RWKV: a decay in place of queries
#
# RWKV goes one step further and drops the query's part in the weights altogether. Each channel has a **decay** $w$, and
# a token's weight is $e^{k}$, fading with every step; the present token has a **bonus** $u$:
#
# $$\mathrm{wkv}_t = \frac{\sum_{i<t} e^{-(t-1-i)\,w + k_i}\, v_i + e^{u + k_t}\, v_t}
# {\sum_{i<t} e^{-(t-1-i)\,w + k_i} + e^{u + k_t}}$$
#
# What is asked of the past comes in only at the end, as a gate on every channel: the **receptance**, $\sigma(r_t)
# \odot \mathrm{wkv}_t$. Fast channels forget within a few tokens, slow ones remember for a hundred and more:

# %% name="how_channels_forget" tags=["compare"]
from minillm.layers import rwkv

block = rwkv.RwkvTimeMix(d_model=9)
decays = block.log_decay.exp().detach()[[0, 1, 2, 3, 5]]
ago = torch.arange(60)
figure, (axes,) = plots.new_figure(height=2.8)
curves = {f"w = {w:.2g}": (ago.tolist(), (-ago * w).exp().tolist()) for w in decays}
plots.line_chart(axes, curves, "How much of a token is left", "tokens ago", "share")
axes.set_xlim(-2, 85)
plots.show(figure, alt="Five decays: the fastest channel forgets within two tokens, the slowest keeps most over sixty")
half_lives = [math.log(2) / w for w in decays.tolist()]
print("half gone after (tokens):", [round(half_life, 1) for half_life in half_lives])
assert half_lives == sorted(half_lives, reverse=True)

# %% [markdown]
# The sums again need no list of the past: one numerator and one denominator a channel. There is a catch that you know
# from softmax. $e^{k}$ overflows, so the state carries the largest exponent so far beside the two sums.

# %% name="rwkv_three_ways" tags=["compare"]
n_channels, n_tokens = 32, 40
k, v = torch.randn(2, n_tokens, n_channels, generator=generator, dtype=torch.float64)
decay, bonus = torch.rand(2, n_channels, generator=generator, dtype=torch.float64)


def wkv_as_written(t):
    """The formula above, term by term."""
    exponents = torch.stack([k[i] - (t - 1 - i) * decay for i in range(t)] + [bonus + k[t]]).exp()
    return (exponents * v[: t + 1]).sum(0) / exponents.sum(0)


explicit = torch.stack([wkv_as_written(t) for t in range(n_tokens)])
for name, form in (("step by step", rwkv.wkv_recurrent), ("in parallel", rwkv.wkv_parallel)):
    difference = (form(k, v, decay, bonus) - explicit).abs().max().item()
    print(f"{name}: as the explicit sum: {difference < 1e-12}")
    assert difference < 1e-12
state = rwkv.wkv_step(k[0], v[0], decay, bonus)[1]
print("kept:", sum(part.numel() for part in state), "numbers at any length; keys and values of 4,096 tokens:",
      f"{2 * 4096 * n_channels:,}")
assert sum(part.numel() for part in state) == 3 * n_channels and 2 * 4096 * n_channels == 262_144

# %% name="exponents_need_a_maximum" tags=["compare"]
large = (k + 1000).float()
naive = (large.exp() * v.float()).cumsum(0) / large.exp().cumsum(0)
stable = rwkv.wkv_recurrent(large, v.float(), decay.float(), bonus.float())
print("plain sums of exponentials, share of NaN:", naive.isnan().double().mean().item())
print("with the running maximum, as without the 1000:", torch.allclose(stable, explicit.float(), atol=2e-3))
assert naive.isnan().all() and torch.allclose(stable, explicit.float(), atol=2e-3)

# %% [markdown]
# ## What is quadratic, and when does it matter?
#
# "Attention is quadratic, so the Transformer is slow on long texts." How long is long? A layer of width D with the
# usual FFN has $12 D^2$ weights, each used once a token: $24\,T D^2$ FLOPs. Scores and weighted sums: $4\,T^2 D$.
#
# **Predict.** D = 5,120, as in a model of 13 billion weights. At 2,048 tokens, what share of a layer's FLOPs is
# quadratic? And at which T is it half?

# %%
guess_quadratic, guess_half = "?", "?"  # a share, and a number of tokens

# %% name="where_the_square_begins" tags=["compare"]
def quadratic_share(seq_len, d_model):
    """The share of scores and weighted sums in a layer's FLOPs, no mask."""
    square, linear = 4 * seq_len**2 * d_model, 24 * seq_len * d_model**2
    return square / (square + linear)


# The formula against FLOPs that are counted, in a small layer: D = 64, 8 heads, FFN 4 D.
generator = torch.Generator().manual_seed(0)
x, w = torch.randn(128, 64, generator=generator), torch.randn(12, 64, 64, generator=generator)
with MemoryLedger() as ledger:
    q, k, v = ((x @ w[i]).view(128, 8, 8).transpose(0, 1) for i in range(3))
    merged = sdpa.sdpa(q, k, v).transpose(0, 1).reshape(128, 64) @ w[3]
    F.relu(merged @ w[4:8].permute(1, 0, 2).reshape(64, 256)) @ w[8:].reshape(256, 64)
assert ledger.flops == 24 * 128 * 64**2 + 4 * 128**2 * 64

shares = {seq_len: quadratic_share(seq_len, 5120) for seq_len in (2048, 8192, 32_768, 131_072)}
print("D = 5,120:", {f"{n:,}": f"{share:.1%}" for n, share in shares.items()}, f"  your guess: {guess_quadratic}")
print(f"half at T = 6 D = {6 * 5120:,}; your guess: {guess_half}")
assert [round(share, 4) for share in shares.values()] == [0.0625, 0.2105, 0.5161, 0.8101]
assert quadratic_share(6 * 5120, 5120) == 0.5

# %% [markdown]
# So at ordinary lengths the square is a small part of the bill, and "the T² of attention" is not what makes a model
# slow at 2,000 tokens. Beyond T = 6 D it is. Which remedy helps depends on *what* you lack. Count it, at 8,192 tokens:

# %% name="which_remedy_saves_what" tags=["compare"]
seq_len, d_model, head_dim, window = 8192, 4096, 128, 512
n_heads, square = d_model // head_dim, 4 * seq_len**2 * d_model
seen = sum(min(i + 1, window) for i in range(seq_len))  # pairs in a sliding window
remedies = {
    "plain": (1.0, n_heads * seq_len**2, 2 * seq_len * d_model),
    "8 key heads (GQA)": (1.0, n_heads * seq_len**2, 2 * seq_len * 8 * head_dim),
    "flash, tiles of 64": (1.0, 64**2, 2 * seq_len * d_model),
    "ring of 8 devices": (1.0, 64**2, 2 * seq_len * d_model // 8),
    "window of 512": (4 * seen * d_model / square, n_heads * seq_len * window, 2 * window * d_model),
    "linear attention": (4 * seq_len * d_model * head_dim / square, 0, n_heads * head_dim * (head_dim + 1)),
}
print(f"{'':20s}FLOPs for scores   scores alive   cached numbers (ring: a device)")
for name, (share, alive, cached) in remedies.items():
    print(f"{name:20s}{share:16.3f}{alive:15,}{cached:17,}")
unchanged = {name for name, (share, *_) in remedies.items() if share == 1.0}
assert unchanged == {"plain", "8 key heads (GQA)", "flash, tiles of 64", "ring of 8 devices"}
assert remedies["window of 512"][0] < 0.07 and remedies["linear attention"][0] < 0.02
assert remedies["plain"][2] == 4 * remedies["8 key heads (GQA)"][2]

# %% [markdown]
# Only the last two change the exponent, and both change the function: what lies outside the window, or what the state
# has no room for, is lost. The others are exact and change where the numbers live. (Speculative decoding, often named
# in one breath with these, changes neither: it makes fewer steps that must wait for one another. Lesson 12.)

# %% [markdown]
# ## What it costs in quality
#
# Bytes and operations can be counted; what a variant loses must be measured. The course's table trains one small GPT
# (2 layers, 4 heads of 16) on Python's documentation, letter by letter, with each kind of attention in turn: the same
# budget, the same batches, three seeds. The command that made it is stored with it.

# %% name="the_table_of_variants" tags=["compare"]
from minillm.bench.results import load_table
from minillm.bench.variants.attention import LONG, VARIANTS, build_variant

stored = load_table("attention")
results = {row["name"]: row["values"] for row in stored["rows"]}
print(f"{stored['command']}   ({stored['date']}, {stored['machine']})\n")
print(f"{'':26s}loss, three seeds      weights   kept of {LONG} tokens")
for name, values in results.items():
    losses = "  ".join(f"{loss:.3f}" for loss in sorted(values["loss"]))
    print(f"{name:26s}{losses}{values['weights'][0]:12,}{values[f'kept at {LONG}'][0]:15,}")
assert set(results) == set(VARIANTS) and all(len(values["loss"]) >= 3 for values in results.values())
MEAN = {name: sum(values["loss"]) / len(values["loss"]) for name, values in results.items()}

# %% name="loss_against_memory"
figure, (axes,) = plots.new_figure(width=7.6, height=3.6)
order = sorted(MEAN, key=MEAN.get)
for place, name in enumerate(order):
    losses, kept = results[name]["loss"], results[name][f"kept at {LONG}"][0]
    recurrent = VARIANTS[name].kind in ("linear", "RWKV", "Infini")
    axes.scatter(losses, [place] * len(losses), color=plots.COLOURS[int(recurrent)], s=24)
    axes.text(1.03, place, f"{kept:,}", transform=axes.get_yaxis_transform(), fontsize=9, va="center")
axes.set_yticks(range(len(order)), order)
axes.invert_yaxis()
axes.grid(axis="x", color=plots.PALE, linewidth=0.6)
axes.set_xlabel("nats a letter on new text; a dot a seed", fontsize=9)
axes.set_title(f"Loss, and at the right the numbers kept of {LONG:,} tokens", fontsize=10)
plots.show(figure, alt="Loss of ten variants of attention, three dots each, best on top, and what each keeps")

# %% name="what_the_table_says" tags=["compare"]
def lost(name, beside):
    """How much more a variant pays than another, in nats a letter, and whether their seeds lie apart."""
    own, other = results[name]["loss"], results[beside]["loss"]
    apart = min(own) > max(other) or max(own) < min(other)
    print(f"{name:26s}{MEAN[name] - MEAN[beside]:+.3f} beside {beside}{'' if apart else '   (seeds overlap)'}")
    return MEAN[name] - MEAN[beside]


assert abs(lost("GQA, 2 key heads", "MHA")) < 0.03 and 0 < lost("MQA", "MHA") < 0.05
assert abs(lost("MLA", "MQA")) < 0.05 and results["MLA"][f"kept at {LONG}"] == results["MQA"][f"kept at {LONG}"]
assert abs(lost("window 16", "MHA")) < 0.03 and lost("Infini, segments of 16", "window 16") > 0.05
assert lost("linear, learned positions", "MHA, learned positions") > 0.08
assert lost("MHA, no positions", "RWKV") > 0.3 and lost("RWKV", "MHA") < -0.03
mha = {key: sum(values) / len(values) for key, values in results["MHA"].items()}
for n_kv_heads in (2, 1):
    pooled, healed = mha[f"pooled to {n_kv_heads}"] - mha["loss"], mha[f"healed to {n_kv_heads}"] - mha["loss"]
    print(f"MHA pooled to {n_kv_heads} key head(s): {pooled:+.2f}, and {healed:+.2f} after a tenth of the steps")
    assert 0 < healed < pooled / 4

# %% [markdown]
# Read it slowly:
#
# - **Sharing is cheap.** Two key heads cannot be told from four here, and a single one costs a hundredth or two.
# - **MLA** keeps exactly as much as MQA in this table, and does no better. DeepSeek-V2 reports that at its size MLA
#   does better than MHA (appendix D.2). A table on a small model says what happened on a small model.
# - **A window of 16** loses nothing: what decides the next letter stands nearby. Do not conclude that it never
#   loses. You have seen a task with the answer 24 places back, and what blocks of 16 made of it.
# - **Infini-attention** with segments as long as that window does worse: the first letters of a segment see their
#   neighbours only through the memory.
# - **Linear attention** pays for its short memory, beside softmax attention with the same positions.
# - **RWKV** does best of all, with the least memory. Its decays know the order (without positions, MHA is far behind),
#   and its token shift hands every letter the one before, which is worth much in spelling. Recall is what a state of
#   fixed size is bad at, and this task hardly asks for it.
#
# Which variant is best depends on what the text asks of the past. Whoever shows you one number has chosen the question.
#
# ### No variant reads the future
#
# One last look at your own code. Each of these models, fresh, with your functions inside: change token 20 of 40, and
# see which logits move.

# %% name="nobody_reads_the_future" tags=["compare"]
from minillm.bench.variants import harness

token_ids = harness.text_windows("validation", 40, 2)[:, :40]
changed = token_ids.clone()
changed[:, 20] = (changed[:, 20] + 1) % harness.BASE.vocab_size
with mine.active(), torch.no_grad():
    for name, variant in VARIANTS.items():
        model = build_variant(variant, 0).eval()
        for block in model.blocks:
            torch.nn.init.normal_(block.attn.o_proj.weight, std=0.1, generator=torch.Generator().manual_seed(1))
        moved = (model(changed) - model(token_ids)).abs().amax(dim=(0, 2)) > 1e-5
        print(f"{name:26s} first logits that move: {int(moved.nonzero().min())}")
        assert not moved[:20].any() and moved[20]

# %% name="whose_code_ran" tags=["compare"]
mine.table()

# %% [markdown]
# ## Explore
#
# The three bills, at the sizes of a model of 7 billion weights. Blue: attention with a softmax; orange: without. Make
# the text long, and see whose bars grow. Change the number of key heads: which panel moves, and which does not? Then
# switch to tiles. (The bar of linear attention at the right belongs to running sums over a whole text, one memory for
# each token. Token by token there is a single one.)

# %% name="cost_explorer"
from minillm.course.scenes.cost_explorer import cost_controls, cost_picture
from minillm.course.widgets import Explorer

Explorer(
    cost_picture,
    alt="What eight kinds of attention keep, compute for the next token, and lay out, at 16,384 tokens",
    **cost_controls(),
)

# %% [markdown]
# ## Interview corner
#
# Each answer names the cell above that proves it. Say yours aloud before you unfold one.

# %% [markdown] interview="03"

# %% [markdown]
# ## Remember
#
# 1. Three bills: what is kept for every token, what is computed for every pair, what is laid out at once. Ask of every
#    new attention which of them it pays. Sharing keys (GQA, MQA, MLA) shrinks the first and computes no less; flash
#    attention pays the third and is exact.
# 2. A softmax can be put together from pieces: carry a maximum, a sum and an output along. Flash attention, merged
#    blocks and the ring are that one fact.
# 3. Only what changes the function removes the square: a window forgets what is far, a state of fixed size is a
#    summary. Measure what is lost.
#
# **Where next.** Lesson 04 tells attention where the words stand. Lesson 10 builds the caches that this lesson has
# counted: rolling, paged, shared.
