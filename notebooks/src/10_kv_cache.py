# %% [markdown]
# # 10 KV cache
#
# A GPT writes one token at a time, and each token looks back at all others. In this lesson you see to it that nothing
# is computed twice, and then you deal with the price: memory. You predict it to the byte, you measure it, and you build
# the caches that keep it small: a ring, a few tokens that must never be dropped, blocks that several texts share. At
# the end stands the question that this memory decides: how a model reads a text that is longer than it can hold.
#
# | | |
# |---|---|
# | **You need** | lesson 02 (attention, masks); helpful: 03 (GQA, MLA, windows), 04 (RoPE), 07 (the model) |
# | **Time** | an hour and a half for the six exercises, an hour and a half for the rest |
# | **Runs on** | any CPU with 2 GB; all cells together about half a minute, most of it training four tiny models |
#
# **Sources.** Shazeer 2019 (multi-query attention), section 2.4; Pope et al. 2022; Kwon et al. 2023
# (PagedAttention), sections 3 and 4; Zheng et al. 2024 (SGLang), section 3; Jiang et al. 2023 (Mistral 7B), section 2;
# Xiao et al. 2023 (attention sinks), section 3; Guo et al. 2024 (Active-Dormant Attention Heads), section 2; Dettmers
# et al. 2022 (LLM.int8()), section 2; Wu et al. 2021 (summarizing books), section 2; Yang et al. 2016 (HAN), section 2.
#
# An exercise is three cells: the task with folded hints, a cell for your function, and a check that tells you which
# mistake you made. Until yours is right, the lesson goes on with the course's own.

# %% [markdown]
# ## What writing costs

# %% name="the_work_of_writing"
import math
from dataclasses import replace

import torch
import torch.nn.functional as F

from minillm.course import check, hint, mine, plots, reset, solution  # noqa: F401
from minillm.course.scenes import cache_pictures

torch.set_num_threads(1)  # these models are small: a second thread would only wait for the first
figure = cache_pictures.work_picture("Mia had a cat and it was old .".split(), n_prompt=3)
plots.show(figure, alt="Six steps of writing: without a cache each computes all tokens, with a cache only the newest")

# %% [markdown]
# Orange is computed, blue is looked up. On the left the model reads the whole text again for each new word. On the
# right it reads each word once. To write one word, it computes one word.
#
# **Predict.** A text begins with one token and grows to 256; the last token is read too. How many tokens go through the
# model without a cache, and how many with one? Write both numbers down.

# %%
guess_without, guess_with = None, None

# %% [markdown]
# ## One token by hand
#
# One head, three tokens. Their keys are (1, 0), (0, 1) and (1, 1), their values 10, 20 and 40; scores are not scaled
# here. Token 1 asks with (0, ln 3): scores 0 and ln 3, so weights 1/4 and 3/4, and it reads 10/4 + 3·20/4 = 17.5.
# Token 2 asks with (ln 2, ln 2): scores ln 2, ln 2 and 2 ln 2, weights 1/4, 1/4, 1/2, and it reads 27.5.

# %% name="three_tokens_by_hand" tags=["compare"]
from minillm.layers import masks, sdpa

keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
values = torch.tensor([[10.0], [20.0], [40.0]])
queries = torch.tensor([[0.0, 0.0], [0.0, math.log(3)], [math.log(2), math.log(2)]])
places = torch.arange(3)
at_once = sdpa.sdpa(queries, keys, values, masks.causal_mask(places, places), scale=1.0)
step_1 = sdpa.sdpa(queries[1:2], keys[:2], values[:2], scale=1.0)
step_2 = sdpa.sdpa(queries[2:], keys, values, scale=1.0)
assert torch.allclose(at_once[1], step_1[0]) and torch.allclose(at_once[2], step_2[0])
assert abs(step_1.item() - 17.5) < 1e-5 and abs(step_2.item() - 27.5) < 1e-5
print(f"token 1 reads {step_1.item():.1f}, token 2 reads {step_2.item():.1f}; all at once: the same")
weights = sdpa.attention_weights(queries[1:], keys, masks.causal_mask(places[1:], places), scale=1.0)
figure, (axes,) = plots.new_figure(width=4.6, height=2.6)
plots.attention_arrows(axes, weights, ["token 1 asks", "token 2 asks"], ["10", "20", "40"], "who reads which value")
plots.show(figure, alt="Token 1 reads values 10 and 20, mostly 20; token 2 reads all three, mostly 40")

# %% [markdown]
# When token 2 arrives, its query meets **three keys**, and **three values** are summed. Nobody asks for the query of
# token 1 any more, or for what it read. So of each old token two vectors are needed in each layer, its key and its
# value. That is the **KV cache**. Queries are used once, in the step in which they are made.
#
# The keys of old tokens must not change when new ones come. In the first layer they can't. In the second they are made
# from what the first layer read, and that is safe only if nobody looks ahead:

# %% name="only_where_nobody_looks_ahead" tags=["compare"]
from minillm.bench.variants import harness
from minillm.model.gpt import GPT


def second_layer_keys(model, token_ids):
    seen = []
    hook = model.blocks[1].attn.k_proj.register_forward_hook(lambda module, inputs, keys: seen.append(keys))
    with torch.no_grad():
        model(token_ids)
    hook.remove()
    return seen[0]


plain = replace(harness.BASE, init=replace(harness.BASE.init, residual="plain"))
token_ids = torch.randint(96, (1, 9), generator=torch.Generator().manual_seed(0))
moved = {}
for name, rule in (("causal", masks.causal_mask), ("bidirectional", masks.bidirectional_mask)):
    model = GPT(plain, torch.Generator().manual_seed(0)).eval()
    for block in model.blocks:
        block.attn.mask_rule = rule
    shorter, longer = (second_layer_keys(model, token_ids[:, :n]) for n in (8, 9))
    moved[name] = ((longer[:, :8] - shorter).norm() / shorter.norm()).item()
    print(f"{name:13s} one token more moves the old keys by {moved[name]:.0%}")
assert moved["causal"] < 1e-5 and moved["bidirectional"] > 0.01

# %% [markdown]
# So a GPT can be cached, and a BERT can't: there, one more token changes everything.

# %% [markdown]
# ## A cache is memory with a mark
#
# The simplest cache takes room for `capacity` tokens at once and remembers how many slots are filled. Here is the
# writing part as a pure function.

# %% exercise="layers.cache.cache_append"

# %% [markdown]
# The course's `KVCache` calls it for keys and for values. Now write 256 tokens in both ways, and count what goes
# through the key projection of one layer. Your function, if it passed, is what keeps the keys.

# %% name="cached_as_uncached"
def written_greedily(model, first, n_tokens, cache):
    """Logits of each step; one token a call with a cache, the whole text without."""
    counts, logits, text = [], [], first
    hook = model.blocks[0].attn.k_proj.register_forward_hook(lambda module, inputs, keys: counts.append(keys.shape[1]))
    with torch.inference_mode():
        for _ in range(n_tokens):
            step = model(text if cache is None else text[:, -1:], cache=cache)[:, -1]
            text = torch.cat([text, step.argmax(-1, keepdim=True)], dim=1)
            logits.append(step)
    hook.remove()
    return torch.stack(logits, dim=1), sum(counts)


model, first = GPT(plain, torch.Generator().manual_seed(1)).eval(), torch.tensor([[7]])
without, n_without = written_greedily(model, first, 256, None)
with mine.active():
    cached, n_with = written_greedily(model, first, 256, model.new_cache(1, 256))
difference = (cached - without).abs().max().item()
assert difference < 1e-4 and (n_without, n_with) == (256 * 257 // 2, 256)
print(f"{n_without:,} tokens computed without a cache, {n_with} with one; you said {guess_without} and {guess_with}")
print("logits of all 256 steps: the same to 1e-4")
mine.table()

# %% [markdown]
# From 1 + 2 + … + 256 down to 256: projections and FFN now cost the same for each token, however long the text is. What
# still grows is the reading: the new query meets all keys. The whole text costs $O(T^2)$ scores with a cache and
# $O(T^3)$ without.
#
# ## Chunks
#
# A prompt comes as many tokens at once, and one may want to feed it in pieces. Then several queries meet cached keys
# and each other. Who may see whom?

# %% name="who_sees_whom"
from minillm.inference.caches import chunk

mask = chunk.mask_for_chunk(5, 3)
torch_s = torch.ones(3, 8, dtype=torch.bool).tril()
figure, panels = plots.new_figure(2, width=8.4, height=2.4)
names = [f"new {i}" for i in range(3)]
plots.heat_map(panels[0], mask, names, title="3 new tokens, 5 cached: right", low=0, high=1.3)
plots.heat_map(panels[1], torch_s, names, title="a triangle from the corner: wrong", low=0, high=1.3)
plots.show(figure, alt="Right: a new token sees five cached ones and the new up to itself. Wrong: it sees one to three")

# %% exercise="inference.caches.chunk.mask_for_chunk"

# %% [markdown]
# The right-hand picture is not made up. It is what torch draws when it is told `is_causal=True` and there are more keys
# than queries: its triangle starts in the upper left corner. With equal numbers nobody notices.

# %% name="where_torch_puts_the_triangle" tags=["compare"]
generator = torch.Generator().manual_seed(2)
q, k, v = torch.randn(3, 1, 2, 8, 16, generator=generator, dtype=torch.float64)
whole = F.scaled_dot_product_attention(q, k, v, is_causal=True)
gaps = {}
for n_new in (8, 3, 1):
    flag = F.scaled_dot_product_attention(q[:, :, -n_new:], k, v, is_causal=True)
    ours = F.scaled_dot_product_attention(q[:, :, -n_new:], k, v, mask_for_chunk(8 - n_new, n_new))
    assert (ours - whole[:, :, -n_new:]).abs().max() < 1e-12
    gaps[n_new] = (flag - whole[:, :, -n_new:]).abs().max().item()
    print(f"{n_new} new, {8 - n_new} cached: is_causal=True {'agrees' if gaps[n_new] < 1e-12 else 'is wrong'}, "
          "your mask agrees")
last = F.scaled_dot_product_attention(q[:, :, -1:], k, v, is_causal=True)
assert gaps[8] < 1e-12 < 0.1 < min(gaps[3], gaps[1]) and torch.equal(last, v[:, :, :1])
print("one new token with is_causal=True reads the first value of the text and nothing else")

# %% [markdown]
# A model with this bug still writes text, and bad text. There is one test that finds it, and all others of its kind:
# *cut the text anywhere, the logits must not change*. Here it is for every cache of this lesson that promises to be
# exact, on models with heads of all kinds, with padding on the left, with fresh cuts each time.

# %% name="every_cutting"
from minillm.config import AttentionOptions, Mla
from minillm.inference.caches import block_pool, paged, rolling


def logits_in_pieces(model, token_ids, padding_mask, cache, n_cuts):
    cuts = [0, *sorted(torch.randperm(token_ids.shape[1] - 1)[:n_cuts].add(1).tolist()), token_ids.shape[1]]
    with torch.inference_mode():
        pieces = [model(token_ids[:, start:end], padding_mask[:, :end], cache=cache)
                  for start, end in zip(cuts, cuts[1:], strict=False)]
    return torch.cat(pieces, dim=1)


kinds = {"MHA": plain, "GQA": replace(plain, n_kv_heads=2), "MQA": replace(plain, n_kv_heads=1),
         "MLA": replace(plain, attention=Mla(kv_rank=24, rope_dim=8)),
         "window": replace(plain, attention=AttentionOptions(window=12))}
makers = {"contiguous": lambda model: model.new_cache(2, 40),
          "paged": lambda model: paged.paged_caches(model, 2, block_pool.block_pool(model, 24, block_len=4)),
          "rolling": lambda model: rolling.rolling_caches(model, 2)}

# %% name="the_test_that_finds_it" tags=["compare"]
token_ids = torch.randint(96, (2, 40), generator=torch.Generator().manual_seed(3))
padding_mask = torch.ones(2, 40, dtype=torch.bool)
padding_mask[0, :7] = False
worst = 0.0
for name, config in kinds.items():
    model = GPT(config, torch.Generator().manual_seed(4)).eval()
    with torch.inference_mode():
        want = model(token_ids, padding_mask)[padding_mask]
    tried = [kind for kind in makers if kind != "rolling" or name == "window"]
    for kind in tried:
        for n_cuts in (0, 3, 12, 39):
            got = logits_in_pieces(model, token_ids, padding_mask, makers[kind](model), n_cuts)
            worst = max(worst, (got[padding_mask] - want).abs().max().item())
    print(f"{name:7s}", *(f"{kind}: the same" for kind in tried), sep="   ")
assert worst < 1e-4

# %% [markdown]
# ## What it weighs
#
# Two vectors for each token, in each layer, for each key/value head:
#
# $$\text{bytes} = 2 \cdot L \cdot H_k \cdot D_h \cdot T \cdot B \cdot \text{bytes of a number}$$
#
# **Predict.** LLaMA-7B has 32 layers and 32 heads of width 128. In 16 bits, how much memory do 4,096 tokens take? Less
# than the prompt's text, some megabytes, or more?

# %%
guess_gib = None

# %% exercise="inference.caches.kv_bytes.kv_bytes"

# %% [markdown]
# A prediction is worth what its measurement says. On the left your number; in the middle what the caches hold, read off
# their memory; on the right what was taken from the machine while they were made. For positions, a cache keeps 8 bytes
# a token beside keys and values.

# %% name="predicted_and_measured" tags=["compare"]
from minillm.course.ledger import MemoryLedger
from minillm.inference.caches.kv_bytes import held_bytes

print(f"{'':8s}predicted   measured   taken (with positions)")
for name, config in kinds.items():
    model = GPT(config)
    for dtype in (torch.float32, torch.bfloat16):
        with MemoryLedger() as ledger:
            caches = (rolling.rolling_caches(model, 3, dtype=dtype) if name == "window" else
                      model.new_cache(3, 100, dtype))
        predicted, held = kv_bytes(config, 100, batch_size=3, dtype=dtype), held_bytes(caches)
        assert predicted == held["keys_values"] and held["total"] == ledger.peak_bytes
        print(f"{name:8s}{predicted:9,}{held['keys_values']:11,}{ledger.peak_bytes:11,}   {dtype}")

# %% [markdown]
# To the byte. So the same function can be trusted with models that don't fit on this machine:

# %% name="bytes_of_real_models" tags=["compare"]
from minillm.config import preset

llama = preset("llama-7b")
seventy = replace(llama, n_layers=80, d_model=8192, n_heads=64, n_kv_heads=64)
designs = {
    "LLaMA-2 70B, were it MHA": seventy, "LLaMA-7B (MHA)": llama,
    "LLaMA-2 70B (GQA, 8 heads)": replace(seventy, n_kv_heads=8),
    "Mistral 7B (GQA, window)": replace(llama, n_kv_heads=8, attention=AttentionOptions(window=4096)),
    "DeepSeek-V2 (MLA)": replace(llama, n_layers=60, attention=Mla(kv_rank=512, rope_dim=64)),
    "LLaMA-7B, were it MQA": replace(llama, n_kv_heads=1),
}
a_token = {name: kv_bytes(config, 1, dtype=torch.float16) for name, config in designs.items()}
for name, size in a_token.items():
    gib = kv_bytes(designs[name], 32_768, dtype=torch.float16) / 2**30
    print(f"{name:27s}{size:10,} bytes a token   {gib:6.2f} GiB for 32,768 tokens")
at_4096 = kv_bytes(llama, 4096, dtype=torch.float16)
assert at_4096 == 2 * 2**30 and a_token["LLaMA-7B (MHA)"] == 524_288
assert a_token["LLaMA-2 70B, were it MHA"] == 8 * a_token["LLaMA-2 70B (GQA, 8 heads)"] == 2_621_440
print(f"LLaMA-7B, 4,096 tokens: {at_4096 / 2**30:.1f} GiB; you said {guess_gib}")

# %% name="bytes_by_length"
from minillm.model.counting import count_parameters

lengths = [2**n for n in range(8, 18)]
curves = {name: (lengths, [kv_bytes(config, n, dtype=torch.float16) / 2**30 for n in lengths])
          for name, config in designs.items()}
figure, (axes,) = plots.new_figure(width=7.6, height=3.8)
weights = 2 * count_parameters(llama)["total"]
plots.line_chart(axes, curves, "What one text keeps, in 16 bits", "tokens", "GiB",
                 (weights / 2**30, "LLaMA-7B's weights"))
axes.set(xscale="log", yscale="log")
axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
print(f"LLaMA-7B: the cache of {weights // a_token['LLaMA-7B (MHA)']:,} tokens weighs as much as its weights")
assert 25_000 < weights // a_token["LLaMA-7B (MHA)"] < 26_000
plots.show(figure, alt="Straight lines for all but Mistral, flat beyond 4,096 tokens; LLaMA-7B passes its own weights")

# %% [markdown]
# One text of some 25,000 tokens weighs as much as the model that reads it, and a server has many texts at a time. That
# is why lesson 03 was at such pains to share heads.
#
# ### What grows, and what stays
#
# "Inference takes more and more memory because the input data is large and intermediate results stay." Let us weigh
# all of them: the token ids, what autograd keeps, what the layers need while they run, and the cache.

# %% name="memory_of_inference" tags=["compare"]
from minillm.course.ledger import kept_for_backward

text = torch.randint(96, (1, 256), generator=torch.Generator().manual_seed(5))
peaks = {}
for n_layers in (2, 8):
    model = GPT(replace(plain, n_layers=n_layers))
    for mode, guard in (("with autograd", torch.enable_grad), ("no_grad", torch.no_grad)):
        with guard(), kept_for_backward() as kept, MemoryLedger() as ledger:
            model(text)
        peaks[mode, n_layers] = ledger.peak_bytes
        grown = "kept for a backward pass" if kept["bytes"] else "nothing kept"
        assert (kept["bytes"] > 10**6) == (mode == "with autograd")
        print(f"{n_layers} layers, {mode:13s} peak {ledger.peak_bytes / 2**20:5.1f} MiB, {grown}")
assert peaks["with autograd", 8] > 2.5 * peaks["with autograd", 2]
assert peaks["no_grad", 8] < 1.1 * peaks["no_grad", 2]
cache = [kv_bytes(replace(plain, n_layers=8), n) for n in (256, 512)]
assert cache[1] == 2 * cache[0] and text.nbytes == 8 * 256 and cache[0] > 500 * text.nbytes
print(f"token ids: {text.nbytes:,} bytes; cache of 8 layers: {cache[0]:,} bytes, for twice the text {cache[1]:,}")

# %% [markdown]
# Token ids are next to nothing. Activations are freed layer by layer: eight layers need no more at a time than two,
# *unless somebody forgot* `no_grad`. What grows with the text is the cache, in proportion.
#
# And why does the memory stay taken when the text is finished? There are two reasons. An engine reserves the cache at
# the start, for the longest text that may come. And on a GPU torch's allocator keeps what was freed, to hand it out
# again: `memory_reserved` is what the system sees, `memory_allocated` what tensors use. Only a GPU can show the second.

# %% name="why_it_stays"
empty = model.new_cache(1, 512)
before = held_bytes(empty)["total"]
with torch.inference_mode():
    model(text[:, :3], cache=empty)
assert held_bytes(empty)["total"] == before
print(f"reserved for 512 tokens: {before:,} bytes, before the first token and after three")
if torch.cuda.is_available():
    on_gpu = GPT(plain).to("cuda")
    start = torch.cuda.memory_allocated()
    caches = on_gpu.new_cache(4, 4096)
    taken = torch.cuda.memory_allocated() - start
    assert {part.device.type for part in caches[0].append(*torch.zeros(2, 4, 4, 1, 16, device="cuda"),
                                                          torch.zeros(1, dtype=torch.int64, device="cuda"))} == {"cuda"}
    del caches
    freed, reserved = torch.cuda.memory_allocated() - start, torch.cuda.memory_reserved()
    assert abs(taken - held_bytes(on_gpu.new_cache(4, 4096))["total"]) < 4096 and reserved >= taken > freed
    print(f"cache {taken:,} bytes; after it was deleted {freed:,} are in use, {reserved:,} reserved")
else:
    print("skipped: the allocator of a GPU, because there is no GPU here")

# %% [markdown]
# ## A ring: keep only what can still be seen
#
# A layer with a window of 4 never looks at the fifth-last token again. So its slot can be taken: token $p$ goes into
# slot $p \bmod 4$. The keys then lie in odd order, which does not matter, because masks compare positions.

# %% name="a_ring_of_slots"
from minillm.course.scenes.cache_stepper import slot_states

states = {kind: slot_states(kind, 8, size) for kind, size in (("rolling", 4), ("sinks", 3))}
figure, (axes,) = plots.new_figure(width=5.4, height=3.1)
cache_pictures.slot_steps(axes, [state.slots for state in states["rolling"]], range(8), "rolling cache, window 4")
plots.show(figure, alt="Eight steps of a ring of four slots: token 4 overwrites token 0, token 5 token 1, and so on")

# %% name="the_ring_never_grows" tags=["compare"]
config = replace(plain, attention=AttentionOptions(window=16))
model = GPT(config, torch.Generator().manual_seed(6)).eval()
token_ids = torch.randint(96, (1, 300), generator=torch.Generator().manual_seed(6))
caches = rolling.rolling_caches(model, 1)
with torch.inference_mode():
    want = model(token_ids)
    got = torch.cat([model(token_ids[:, t : t + 1], cache=caches) for t in range(300)], dim=1)
assert (got - want).abs().max() < 1e-4
sizes = held_bytes(caches)["keys_values"], kv_bytes(config, 16), kv_bytes(plain, 300)
assert sizes[0] == sizes[1] == kv_bytes(config, 300) and sizes[2] > 18 * sizes[0]
print(f"300 tokens, one by one: the same logits; {sizes[0]:,} bytes held, a full cache takes {sizes[2]:,}")

# %% [markdown]
# The window is part of this model, so nothing was lost. May one do the same to a model that was trained *without* a
# window, simply to save memory?
#
# ## Tokens that must not be dropped
#
# Softmax hands out weights that add up to 1. A head that finds nothing of interest must put them somewhere. If all
# texts begin with the same token, that is a good place: its value can be made harmless. Such a token is called an
# **attention sink**. You can watch one form. The texts below are random signs, each depending on the one before it,
# except after a **trigger**: there, the sign before the trigger comes again. (The task is from Guo et al. 2024.) A head
# has something to do at triggers, and nothing anywhere else.

# %% name="an_attention_sink"
from minillm.course.scenes.sink_model import N_TRIGGERS, TRAIN_LEN, streamed_nats, train_sink_model, trigger_texts
from minillm.layers.recorder import record

SEEDS = (3, 2)
sink_models = {seed: train_sink_model(seed) for seed in SEEDS}
shares = {}
for seed, model in sink_models.items():
    texts = trigger_texts(64, TRAIN_LEN, seed=100, habits_seed=seed)
    with torch.no_grad(), record("attn_weights") as tape:
        model(texts)
    weights, quiet = tape["attn_weights"][0][:, 0, 8:], texts[:, 8:] >= N_TRIGGERS
    shares[seed] = weights[..., 0][quiet].mean().item(), (1 / torch.arange(9, TRAIN_LEN + 1.0)).mean().item()
    print(f"seed {seed}: where there is nothing to do, {shares[seed][0]:.0%} of the weight lies on the first token; "
          f"spread evenly it would be {shares[seed][1]:.0%}")
assert all(first > 2.5 * even for first, even in shares.values())
figure, (axes,) = plots.new_figure(width=5.6, height=3.6)
labels = ["begin", *("T" if sign < N_TRIGGERS else "" for sign in texts[0, 1:].tolist())]
plots.heat_map(axes, tape["attn_weights"][0][0, 0], labels, [], "who reads whom; T is a trigger", 0, 1)
plots.show(figure, alt="Attention of one text: the column of the first token is bright in many rows, also far from it")

# %% [markdown]
# **Predict.** This model now reads texts of 240 signs with a window of 24 recent ones, the length it was trained on.
# Sooner or later the first token falls out. It says nothing about the text. What happens to the loss?

# %%
guess_loss = "?"  # nothing, a little worse, much worse

# %% exercise="inference.caches.sinks.evict_with_sinks"

# %% name="first_tokens_matter"
from minillm.inference.caches import sink_cache

curves, rises, PLACES = {}, {}, range(8, 220, 15)
for seed, model in sink_models.items():
    texts = trigger_texts(64, 240, seed=100, habits_seed=seed)
    quiet = texts[:, :-1] >= N_TRIGGERS
    for name, n_sinks in (("window of 24", 0), ("1 sink, 23 recent", 1), ("everything", None)):
        caches = None if n_sinks is None else sink_cache.sink_caches(model, 64, n_sinks, TRAIN_LEN - n_sinks)
        with mine.active():
            nats = streamed_nats(model, texts, caches)
        by_place = torch.stack([nats[:, i : i + 15][quiet[:, i : i + 15]].mean() for i in PLACES])
        rises[seed, name] = (by_place[5:].mean() - by_place[0]).item()
        print(f"seed {seed}, {name:17s} loss where no trigger is: {by_place[0]:.2f} → {by_place[5:].mean():.2f}")
        curves.setdefault(name, by_place.tolist())
    assert rises[seed, "window of 24"] > 0.3 and rises[seed, "everything"] > 0.2
    assert rises[seed, "1 sink, 23 recent"] < 0.15
figure, (axes,) = plots.new_figure(height=3.0)
plots.line_chart(axes, {name: (PLACES, curve) for name, curve in curves.items()},
                 "One token more, and the stream goes on", "tokens read", "nats, where no trigger is")
axes.legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
plots.show(figure, alt="The loss jumps when the first token is dropped; with one sink it stays; with all it climbs")

# %% [markdown]
# The first token carries no meaning, and without it the model breaks: the weight that used to lie on it now falls on
# other tokens, whose values say something. Keep that one token, and the loss stays where it was, in constant memory.
# Keeping *everything* does not help either: beyond the length of its training, this model's RoPE angles are new to it.
# So the sink cache does one thing more: it counts positions *within the cache*. Its keys are stored unturned and turned
# to their places each time.
#
# Two honest remarks. Nothing that was dropped can be recalled: this is a way to go on for ever, not to remember for
# ever. And a model need not have sinks: you will meet one further down that has none.
#
# Where positions enter only through the mask, the cache can be checked exactly: it is attention with another mask.

# %% name="sinks_are_a_mask" tags=["compare"]
from functools import partial

from minillm.config import NoPosition
from minillm.inference.caches import sinks

model = GPT(replace(plain, position=NoPosition()), torch.Generator().manual_seed(7)).eval()
token_ids = torch.randint(96, (2, 60), generator=torch.Generator().manual_seed(7))
caches = sink_cache.sink_caches(model, 2, n_sinks=4, window=12)
with torch.inference_mode():
    got, kept = [], []
    for t in range(60):
        got.append(model(token_ids[:, t : t + 1], cache=caches))
        kept.append(held_bytes(caches)["keys_values"])
    for block in model.blocks:
        block.attn.mask_rule = partial(sinks.sink_mask, n_sinks=4, window=12)
    want = model(token_ids)
assert (torch.cat(got, dim=1) - want).abs().max() < 1e-5
assert kept[-1] == kept[15] == kv_bytes(model.config, 4 + 12, batch_size=2) and kept[0] < kept[15]
print("streamed through 4 sinks and 12 recent tokens = one pass with that mask, to 1e-5")
print(f"memory after 16 tokens and after 60: {kept[15]:,} and {kept[-1]:,} bytes")

# %% [markdown]
# ## Blocks: memory for texts of unknown length
#
# A server does not know how long an answer will become. If it reserves `capacity` for the longest that may come, most
# of the memory waits for tokens that never arrive.
#
# **Predict.** Texts have 64 tokens on average, and at most 512 (short ones are frequent, long ones rare). Which share
# of the reserved memory holds a token at the end?

# %%
guess_share = None

# %% name="reserved_and_used" tags=["compare"]
from minillm.inference.caches.block_table import blocks_needed

generator = torch.Generator().manual_seed(8)
lens = torch.empty(2000).geometric_(1 / 64, generator=generator).long().clamp(max=512).tolist()
used = sum(lens)
shares = {"reserve 512": used / (len(lens) * 512)}
for block_len in (64, 16, 4, 1):
    shares[f"blocks of {block_len}"] = used / sum(block_len * blocks_needed(length, block_len) for length in lens)
for name, share in shares.items():
    print(f"{name:13s} {share:.0%} of the memory holds tokens")
assert 0.11 < shares["reserve 512"] < 0.14 and 0.86 < shares["blocks of 16"] < 0.92
wasted = max(16 * blocks_needed(length, 16) - length for length in lens)
assert wasted == 15 and shares["blocks of 1"] == 1
print(f"blocks of 16 waste at most {wasted} tokens a text; you said {guess_share}")
figure, (axes,) = plots.new_figure(height=2.6)
plots.bar_chart(axes, shares, "Share of the memory that holds tokens", "", ".2f")
axes.set_ylim(0, 1.15)
plots.show(figure, alt="Bars: an eighth when 512 tokens are reserved, more with smaller blocks, 0.88 with blocks of 16")

# %% [markdown]
# The remedy is old: operating systems have done it for half a century. Cut the memory into **blocks** of equal size,
# let a text take a block when it needs one, and note in a **block table** which it has. The blocks of a text need not
# lie side by side. Here two texts share a pool; the widget at the end walks you through how it came to be.

# %% name="two_texts_in_one_pool"
from minillm.course.scenes import cache_stepper

plots.show(cache_stepper.stepper_view("paged", 4, 4), alt="A pool of seven blocks of four: two texts share block 0 and "
           "have a block of their own each; tables 0, 2 and 0, 1")

# %% exercise="inference.caches.block_table.block_table_append"

# %% [markdown]
# Is attention through a table the same as attention over one stretch of memory? The free blocks are shuffled first, so
# that no two neighbours lie side by side.

# %% name="scattered_is_contiguous" tags=["compare"]
model = GPT(plain, torch.Generator().manual_seed(9)).eval()
token_ids = torch.randint(96, (3, 50), generator=torch.Generator().manual_seed(9))
pool = block_pool.block_pool(model, 40, block_len=4)
order = torch.randperm(40, generator=torch.Generator().manual_seed(9)).tolist()
pool.free_blocks = order
caches = paged.paged_caches(model, 3, pool)
contiguous = model.new_cache(3, 50)
with mine.active(), torch.inference_mode():
    gaps = [(model(piece, cache=caches) - model(piece, cache=contiguous)).abs().max().item()
            for piece in token_ids.split([20, 1, 1, 28], dim=1)]
tables = caches[0].rows.block_tables
assert max(gaps) < 1e-6 and sorted(sum(tables, [])) == sorted(order[:39])
print("block table of text 0:", tables[0])
print("logits through scattered blocks and through contiguous memory: the same to 1e-6")
print(f"{pool.n_used} blocks of {pool.n_blocks} in use")

# %% [markdown]
# ### Several answers to one prompt
#
# A table may point to a block that another table points to as well. Ask for four answers to one prompt, and the prompt
# lies in memory once. A count says how many texts hold a block. The one that wants to *write* into a block that others
# hold takes a copy first: **copy on write**.

# %% name="four_answers_one_prompt" tags=["compare"]
from minillm.inference.generate import generate

prompt = torch.randint(96, (1, 41), generator=torch.Generator().manual_seed(10))
pool = block_pool.block_pool(model, 60, block_len=4)
one = paged.paged_caches(model, 1, pool)
with torch.inference_mode():
    model(prompt[:, :-1], cache=one)
four = paged.fork_rows(one, [0, 0, 0, 0])
paged.release_rows(one)
assert pool.n_used == 10 and pool.ref_counts[:10] == [4] * 10
answers = generate(model, prompt[:, -1:].expand(4, 1), 10, cache=four, generator=torch.Generator().manual_seed(11))
apart = generate(model, prompt.expand(4, -1), 10, generator=torch.Generator().manual_seed(11))
assert torch.equal(answers, apart[:, 40:]) and len({tuple(row) for row in answers.tolist()}) == 4
alone = 4 * blocks_needed(50, 4)
print(f"four answers of 10 tokens after a prompt of 41: {pool.n_used} blocks, apart they would take {alone}")
print("the same four answers as from four caches")
assert pool.n_used == 10 + 4 * 3 < alone == 52
halfway = paged.fork_rows(four, [0, 0])
generate(model, answers[:1, -1:].expand(2, 1), 2, cache=halfway, generator=torch.Generator().manual_seed(12))
print(f"one of them continued in two ways from the middle of a block: {pool.copies} copies on write")
assert pool.copies > 0

# %% [markdown]
# Beam search (lesson 09) profits too. At every step beams end and others fork. With tables that is a matter of counting
# holders; a cache of one stretch copies the keys and values of all beams into a new order each time.

# %% name="beams_share_blocks" tags=["compare"]
from minillm.inference.beam import beam_search

pool = block_pool.block_pool(model, 60, block_len=4)
tables = paged.paged_caches(model, 1, pool)
through_tables, _ = beam_search(model, prompt, 10, n_beams=4, cache=tables)
reordered, _ = beam_search(model, prompt, 10, n_beams=4)
assert torch.equal(through_tables, reordered) and pool.n_used <= 10 + 4 * 3 < 4 * blocks_needed(51, 4)
print("four beams through block tables: the same texts; what they have in common lies in memory once")
paged.release_rows(tables)
assert pool.n_used == 0 and not any(pool.ref_counts)

# %% [markdown]
# ### Prompts that begin alike
#
# Many requests to an assistant begin with the same instructions. If the blocks of those are kept, a new request need
# not compute them again. But how does one find them? By a **name** for each full block: texts with the same names may
# share.

# %% name="requests_that_begin_alike" tags=["compare"]
from minillm.inference.caches import prefix

generator = torch.Generator().manual_seed(13)
instructions = torch.randint(96, (1, 100), generator=generator)
requests = [torch.cat([instructions, torch.randint(96, (1, 20), generator=generator)], dim=1) for _ in range(20)]
pool = block_pool.block_pool(model, 200, block_len=8)
index, computed = prefix.PrefixIndex(pool), 0
with torch.inference_mode():
    for request in requests:
        caches, n_shared = prefix.prefix_caches(model, index, request)
        last = model(request[:, n_shared:], cache=caches)[:, -1]
        assert (last - model(request)[:, -1]).abs().max() < 1e-4
        index.remember(caches, request)
        computed += request.shape[1] - n_shared
assert computed == 120 + 19 * (120 - 96) and pool.n_used == 12 + 20 * 3
print(f"20 requests of 120 tokens: {computed} tokens computed in place of {20 * 120:,}")
print(f"{pool.n_used} blocks in use in place of {20 * 15}; the answers are the same")

# %% [markdown]
# ## Find the bug: a block known by its face
#
# How would you name a block? The tokens in it, of course. Somebody did that, and all tests passed in which two requests
# began alike or differed from the first block on. Then came a third request. Its second block had the same tokens as
# the second block of the first request, after another beginning.

# %% name="known_by_its_face" tags=["compare"]
def faces_only(token_ids, block_len):
    starts = range(0, len(token_ids) - block_len + 1, block_len)
    return [repr(token_ids[start : start + block_len]).encode() for start in starts]


def third_request(digests):
    """How far the third request's logits are off, and how many tokens it took from others."""
    first, second = torch.randint(96, (2, 1, 16), generator=torch.Generator().manual_seed(14))
    third = torch.cat([second[:, :8], first[:, 8:], first[:, :4]], dim=1)
    pool = block_pool.block_pool(model, 40, block_len=8)
    index, kept, prefix.block_digests = prefix.PrefixIndex(pool), prefix.block_digests, digests
    try:
        for request in (first, second, third):
            caches, n_shared = prefix.prefix_caches(model, index, request)
            with torch.inference_mode():
                last = model(request[:, n_shared:], cache=caches)[:, -1]
            index.remember(caches, request)
    finally:
        prefix.block_digests = kept
    return (last - model(third)[:, -1]).abs().max().item(), n_shared


error, n_shared = third_request(faces_only)
assert error > 1e-2 and n_shared == 16
print(f"the third request takes over {n_shared} tokens, and its logits are off by more than 0.01")

# %% exercise="inference.caches.prefix.block_digests"

# %% name="known_by_its_past" tags=["compare"]
error, n_shared = third_request(block_digests)
assert error < 1e-4 and n_shared == 8
print(f"the third request takes over {n_shared} tokens, and its logits are right")

# %% [markdown]
# No error, no warning, and a slightly wrong answer that depends on what other people asked before. Bugs of this kind
# are found by one test only: the answer from a cache must be the answer without one.
#
# ## Eight bits
#
# Another way to save: store each number in one byte. A vector's largest entry becomes 127, the scale is kept as a
# float. This cache is *not* exact, so the question is how far it is off. For that a trained model is needed: a small
# GPT that has read the documentation of Python for a moment, 32 characters at a time. It is used until the end.

# %% name="a_small_reader"
readers = {n_layers: harness.train_variant(replace(harness.BASE, n_layers=n_layers), 0, train_len=32, batch_size=16,
                                           steps=200) for n_layers in (2, 4)}
reader = readers[2]
windows = harness.text_windows("validation", 256, 48)
surprise = {n_layers: harness.loss_by_position(model, windows) for n_layers, model in readers.items()}
top = math.log(96)
for n_layers, nats in surprise.items():
    print(f"{n_layers} layers: {nats[16:32].mean():.2f} nats a character at places 16 to 31 (guessing: {top:.2f})")
assert all(nats[16:32].mean() < 2.2 for nats in surprise.values())

# %% name="eight_bits"
from minillm.inference.caches import int8

rows = windows[:, :32]
with torch.inference_mode():
    exact = F.log_softmax(reader(rows).double(), -1)
    caches = int8.int8_caches(reader, 48, 32)
    rounded = F.log_softmax(reader(rows, cache=caches).double(), -1)
divergence = (exact.exp() * (exact - rounded)).sum(-1).mean().item()
held = held_bytes(caches)["keys_values"]
full = kv_bytes(reader.config, 32, batch_size=48)
assert divergence < 1e-3 and held == int8.int8_kv_bytes(reader.config, 32, batch_size=48)
print(f"KL to the exact cache: {divergence:.1e} nats a token")
print(f"{held:,} bytes in place of {full:,}: {held / full:.0%}, heads of {reader.config.head_dim} and a float32 scale")
wide = 2 * int8.int8_kv_bytes(llama, 1) / kv_bytes(llama, 1, dtype=torch.float32)
assert 0.5 < wide < 0.53
print(f"LLaMA-7B, heads of 128: {wide:.1%} of its cache in 16 bits")

# %% [markdown]
# How weights are put into 8 and 4 bits, and what outliers do there, is lesson 11.

# %% [markdown]
# ## Texts that are too long
#
# What limits the length of a text? Memory, as you have seen, and positions: a model knows distances up to the length of
# its training. Our reader has learned with 32 characters. Let us give it 256.

# %% name="what_limits_the_length"
in_window = harness.with_config(reader, attention=AttentionOptions(window=32))
surprise["window"] = harness.loss_by_position(in_window, windows)
print(f"{'':16s}at 16-31   at 128-255")
beyond = {}
for name, nats in surprise.items():
    label = f"{name} layers" if name != "window" else "2 layers, window"
    beyond[name] = (nats[128:].mean() - nats[16:32].mean()).item()
    print(f"{label:16s}{nats[16:32].mean():8.2f}{nats[128:].mean():13.2f}")
assert beyond[2] > 0.5 and beyond[4] > 0.5 and beyond["window"] < 0.3
assert kv_bytes(readers[4].config, 256) == 2 * kv_bytes(reader.config, 256)
try:
    reader(torch.zeros(1, reader.config.max_seq_len + 1, dtype=torch.int64))
    raise AssertionError("it took more tokens than it has positions for")
except ValueError as error:
    print(error)
figure, (axes,) = plots.new_figure(height=3.0)
smooth = {("window of 32" if name == "window" else f"{name} layers"): nats.view(-1, 16).mean(1)
          for name, nats in surprise.items()}
plots.line_chart(axes, {name: (range(8, 256, 16), curve.tolist()) for name, curve in smooth.items()},
                 "Trained on 32 characters", "place in the text", "nats a character")
plots.show(figure, alt="Beyond place 32 the surprise climbs, with two layers and with four; with a window it stays low")

# %% [markdown]
# Does this reader have sinks? Its training texts began anywhere, so no token could become one. Stream a text through
# 32 slots, all recent, and through 4 first and 28 recent ones:

# %% name="a_reader_without_sinks"
streamed = {}
for n_sinks in (0, 4):
    caches = sink_cache.sink_caches(reader, 48, n_sinks, 32 - n_sinks)
    streamed[n_sinks] = streamed_nats(reader, windows[:, :161], caches)[:, 64:].mean().item()
    print(f"{n_sinks} sinks, {32 - n_sinks} recent: {streamed[n_sinks]:.1f} nats a character beyond place 64")
assert abs(streamed[0] - streamed[4]) < 0.05 and max(streamed.values()) < surprise[2][64:160].mean() - 0.3
print("with or without the first tokens: the same")

# %% [markdown]
# It loses nothing when its first tokens go. Measure your model before you believe that it needs them, or that it
# doesn't.
#
# ### Myth and measurement
#
# A popular sheet of answers lists, as ways to longer texts: use attention, use a Transformer, add layers and
# parameters. It tempts, because bigger models do have longer contexts. But they have them for other reasons. Measured
# above: the 4-layer reader is as lost beyond 32 characters as the 2-layer one, and it needs *twice* the cache. What did
# help was a window, with the weights unchanged. Lesson 04 has the other remedies inside the model: ALiBi, and RoPE
# with PI, NTK or YaRN.
#
# The rest of this lesson is about what can be done *outside* of the model.
#
# ### Slide
#
# Give the model a window of text and move it on. How far? Cut into separate windows, the first characters of each have
# nothing before them. Moved one character at a time, each has as much as there can be, and nearly everything is read
# 32 times.

# %% name="how_far_to_slide"
from minillm.inference.long_text import sliding_nats, sliding_windows

text_ids = harness.text_ids("validation")[:4001]
slides = {}
for stride in (32, 16, 8, 4, 1):
    n_read = sum(look.end - look.start for look in sliding_windows(4000, 32, stride))
    slides[stride] = sliding_nats(reader, text_ids, 32, stride, 500).mean().item(), n_read
    print(f"stride {stride:2d}: {slides[stride][0]:.3f} nats a character, {n_read:7,} characters read")
assert slides[32][0] > slides[16][0] + 0.02 and abs(slides[16][0] - slides[1][0]) < 0.03
assert slides[32][1] == 4000 and slides[8][1] < 4.1 * 4000 and slides[1][1] == 32 * 3969
figure, (axes,) = plots.new_figure(height=2.8)
plots.line_chart(axes, {"": ([n / 4000 for _, n in slides.values()], [nats for nats, _ in slides.values()])},
                 "What a longer past is worth", "how often the text is read", "nats a character")
axes.set_xscale("log", base=2)
plots.show(figure, alt="Surprise falls when the text is read twice, and not any more after that")

# %% [markdown]
# Reading everything twice gives this small reader all there is to gain. When you meet a perplexity, ask for the stride:
# the same model has several.
#
# ### Cut, with overlap
#
# For questions about a long text one cuts it into chunks and asks about each. A fact that lies across a border is lost
# to both sides. If neighbouring chunks share $o$ tokens, every stretch of up to $o + 1$ tokens is whole in one of them.
#
# **Predict.** Chunks of 100 tokens, facts of 20. Without overlap, which share of the facts is cut? How much more must
# be read so that none is?

# %%
guess_cut, guess_more = None, None

# %% name="facts_at_the_borders" tags=["compare"]
from minillm.inference.long_text import chunk_spans, cut_share

for overlap in (0, 10, 18, 19, 20):
    n_read = sum(end - start for start, end in chunk_spans(100_000, 100, overlap))
    print(f"overlap {overlap:2d}: {cut_share(100_000, 100, overlap, 20):6.2%} of the facts cut, text read "
          f"{n_read / 100_000:.2f} times")
assert abs(cut_share(100_000, 100, 0, 20) - 0.19) < 0.001
assert cut_share(100_000, 100, 19, 20) == 0 < cut_share(100_000, 100, 18, 20)
assert abs(sum(end - start for start, end in chunk_spans(100_000, 100, 20)) / 100_000 - 100 / 80) < 0.001
print("you said", guess_cut, "and", guess_more)
facts = [range(start, start + 20) for start in (30, 90, 190, 260, 345, 480)]
cuts = {f"overlap {overlap}": chunk_spans(520, 100, overlap) for overlap in (0, 20)}
plots.show(cache_pictures.chunk_picture(520, cuts, facts), alt="A text of 520 tokens with six facts: without overlap "
           "two are cut, with an overlap of 20 none")

# %% [markdown]
# ### Map and reduce
#
# Then the answers must be put together: each chunk is read by itself (*map*), neighbouring answers are merged, level by
# level, until one is left (*reduce*). Our long text is sixty stories, one after the other. The question: how many of
# them happen in the place that is most frequent? The reader takes 128 tokens at most and understands a story if it sees
# the whole of it. So that nothing but the cutting is measured, it is not a model but the checker of the story language.

# %% name="sixty_stories"
from collections import Counter

from minillm.inference.long_text import map_reduce, packed_spans
from minillm.text.stories import StoryLanguage

language = StoryLanguage()
tokenizer = language.tokenizer
rows = language.sample_batch(60, torch.Generator().manual_seed(15)).tolist()
stories = [[i for i in row if i != tokenizer.pad_id] for row in rows]
long_text = [i for story in stories for i in story]


def stories_seen(span):
    """Where whole stories begin in a chunk, and the place in which each happens."""
    begins = [i for i in range(*span) if long_text[i] == tokenizer.bos_id]
    ends = {i: next((j for j in range(i, span[1]) if long_text[j] == tokenizer.eos_id), None) for i in begins}
    return {(i, language.facts(tokenizer.decode(long_text[i : j + 1]))["place"]) for i, j in ends.items() if j}


truth = Counter(language.facts(tokenizer.decode(story))["place"] for story in stories)
place = truth.most_common(1)[0][0]
longest = max(map(len, stories))
print(f"{len(long_text):,} tokens, the longest story has {longest}; {truth[place]} stories happen in the {place}")

# %% name="counted_in_chunks" tags=["compare"]
def count_there(seen):
    return sum(where == place for _, where in seen)


cuts = {"no overlap": chunk_spans(len(long_text), 128),
        "overlap": chunk_spans(len(long_text), 128, longest - 1),
        "between stories": packed_spans(list(map(len, stories)), 128)}
counts = {}
for name, spans in cuts.items():
    numbers = map_reduce(spans, lambda span: count_there(stories_seen(span)), sum)
    sets = map_reduce(spans, stories_seen, lambda group: set().union(*group))
    counts[name] = numbers[-1][0], count_there(sets[-1][0])
    print(f"{name:16s}{len(spans):3d} chunks; counts added: {counts[name][0]:2d}; stories joined: {counts[name][1]:2d}")
right = truth[place]
assert counts["no overlap"][0] < right and counts["overlap"][0] > right
assert counts["overlap"][1] == right and counts["between stories"] == (right, right)
print("the truth:", right)

# %% [markdown]
# Without overlap, torn stories are missing. With it they are there, and some are there *twice*: adding up counts is
# wrong as soon as chunks share text. What is merged must bear repetition, as a set does. Or cut where the text itself
# has borders: then nothing is torn, nothing is read twice, and even adding is right. Cut by structure where you can.

# %% name="a_tree_of_answers"
levels = map_reduce(cuts["between stories"], lambda span: count_there(stories_seen(span)), sum)
calls = sum(map(len, levels)) - len(levels[0])
assert levels[-1] == [right]
plots.show(cache_pictures.tree_picture(levels, 4, f"{place}: counts of chunks, added four by four"),
           alt="A tree: counts of each chunk below, sums of four above them, and the whole count at the top")
print(f"{len(levels[0])} chunks read, {len(levels)} levels, no call saw more than 128 tokens or four counts")

# %% [markdown]
# With a language model as reader and writer the results are summaries in place of counts, and each merge loses
# something. What no chunk's summary mentions is not there at the top.
#
# ### Two levels inside the model
#
# The same idea as an architecture: tokens attend within their chunk, then one vector a chunk attends to those of the
# other chunks. How much is saved, and what is lost?

# %% name="two_levels" tags=["compare"]
from minillm.inference.long_text import two_level_pairs

x = torch.randn(1, 1, 4096, 16, generator=torch.Generator().manual_seed(16))


def in_two_levels(x):
    chunks = x.view(64, 1, 64, 16)
    tokens = sdpa.sdpa(chunks, chunks, chunks)
    heads_of_chunks = tokens.mean(2).view(1, 1, 64, 16)
    return tokens, sdpa.sdpa(heads_of_chunks, heads_of_chunks, heads_of_chunks)


with MemoryLedger() as flat:
    sdpa.sdpa(x, x, x)
with MemoryLedger() as two:
    tokens, chunks = in_two_levels(x)
within, between = two_level_pairs(4096, 64)
assert flat.flops == 4 * 16 * 4096**2 and two.flops == 4 * 16 * (within + between)
print(f"scores: {4096**2:,} flat, {within:,} + {between:,} in two levels, "
      f"{4096**2 / (within + between):.0f} times fewer")
other = x.clone()
other[:, :, 5] += 3.0
moved_tokens, moved_chunks = (b - a for a, b in zip((tokens, chunks), in_two_levels(other), strict=True))
assert moved_tokens[1:].abs().max() == 0 and moved_chunks[0, 0, 1:].abs().max() > 0
print("another token 5: no token of another chunk moves, only their chunks' vectors do")

# %% [markdown]
# A token of chunk 40 can learn that chunk 0 was about a cave. It can't learn which word stood there.
#
# ### Which one?
#
# | the question | what helps |
# |---|---|
# | the model must know distances it was not trained on | PI, NTK, YaRN with some training (lesson 04); a window |
# | the cache does not fit | GQA, MLA, window; int8; paging and shared prefixes, with many texts |
# | a stream without end | sinks and a window: it goes on, it does not remember |
# | one fact in a long text | retrieval: find the chunk first, then read it (lesson 16) |
# | something about the whole text | map-reduce over chunks, cut by structure, merged without counting twice |
# | training on long texts | flash attention, ring attention (lesson 03) |
#
# And measure: a model that *accepts* 100,000 tokens need not *use* them. Liu et al. 2023 found that what stands in the
# middle of a long context is read worst.

# %% [markdown]
# ## Your caches at work
#
# Everything that you have built, in one go: a layer's cached step, a pool of blocks with a shared prefix, a stream with
# sinks, and what they weigh.

# %% name="your_caches_at_work" tags=["compare"]
from minillm.inference.caches import kv_bytes as weighing

with mine.active(), torch.inference_mode():
    chunk.attend_chunk(*torch.randn(3, 1, 2, 3, 16), *torch.zeros(2, 1, 2, 8, 16), length=0)
    pool = block_pool.block_pool(reader, 30, block_len=4)
    index, text = prefix.PrefixIndex(pool), harness.text_ids("validation")[None, :24]
    for _ in range(2):
        caches, n_shared = prefix.prefix_caches(reader, index, text)
        reader(text[:, n_shared:], cache=caches)
        index.remember(caches, text)
    stream = sink_cache.sink_caches(reader, 1, n_sinks=4, window=12)
    generate(reader, text[:, :12], 20, temperature=0.0, cache=stream)
    weight = weighing.kv_bytes(reader.config, 16)
assert n_shared == 20 and held_bytes(stream)["keys_values"] == weight
ran = {name.rpartition(".")[2]: (whose, calls) for name, whose, calls in mine.table().rows}
for name in ("cache_append", "mask_for_chunk", "kv_bytes", "evict_with_sinks", "block_table_append", "block_digests"):
    print(f"{name:19s} {ran[name][0]}")
    assert ran[name][1] > 0

# %% [markdown]
# ## Explore
#
# Step through each cache, token by token. In `paged`, find the step at which a block is copied, and a block length at
# which none is. When A has ended, which of its blocks are free, and why not all? In `sinks`, compare *token* and *read
# at*.

# %% name="explorer"
from minillm.course.widgets import Explorer

Explorer(
    cache_stepper.stepper_view,
    "Three texts in a pool of blocks of three: A and B share the first block of their prompt, C has one of its own",
    **cache_stepper.cache_controls("paged", step=7, size=3),
)

# %% [markdown]
# ## Interview corner
#
# Answer aloud before you unfold. Each answer names the cell that proves it.

# %% [markdown] interview="10"

# %% [markdown]
# ## Remember
#
# 1. In a causal model keys and values of old tokens never change, so they are kept: 2 · layers · key heads · width ·
#    tokens numbers. The test of every cache: cut the text anywhere, the logits stay.
# 2. Keep less by design (GQA, MLA, window), store it smaller (int8), or waste less (blocks, sharing). Blocks may be
#    shared only if everything before them is the same, and written only after a copy.
# 3. A text longer than the model: slide, cut with overlap or by structure, merge what bears repetition. More layers do
#    not lengthen the context.
#
# **Where next.** Lesson 11 makes the weights smaller, as you have made the cache. Lesson 12 puts many texts through one
# model at a time, out of one pool of blocks.
