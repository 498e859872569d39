# %% [markdown]
# # 09 Generation
#
# A model gives a probability for every token that could come next. It does not say which to take. Somebody has to
# choose, again and again, and how they choose decides whether a text is dull, foolish or stuck in a loop. You build
# the usual ways of choosing, let three small models write with each, and measure what comes out. Then you look for
# the reason of the loops inside a model, and find two attention heads that do nothing but copy.
#
# | | |
# |---|---|
# | **You need** | lesson 00 (softmax), lesson 02 (attention weights); helpful: lesson 01 (BPE), lesson 07 (the model) |
# | **Time** | about an hour and a half for the seven exercises, an hour for the rest |
# | **Runs on** | any CPU with 2 GB; the cells take about 40 seconds, most of it the training of nine small models |
#
# **Sources.** Holtzman et al. 2019 (neural text degeneration, top-p), sections 3 and 4; Fan et al. 2018 (top-k),
# section 5.4; Nguyen et al. 2024 (min-p), section 3; Meister et al. 2022 (typical sampling); Keskar et al.
# 2019 (CTRL), section 4.1; Xu et al. 2022 (self-reinforcement), section 2; Olsson et al. 2022 (induction heads);
# Stahlberg and Byrne 2019 (the empty translation), section 3; Willard and Louf 2023 (constrained output), section 3.
#
# Why nine models and not one? No claim about what models write should rest on one seed.
#
# An exercise is three cells: the task with folded hints, a cell for your function, and a check that tells you which
# mistake you made. Until yours is right, the lesson goes on with the course's own.

# %% [markdown]
# ## One distribution, four ways to choose

# %% name="one_distribution"
import torch
from tqdm.auto import tqdm

from minillm.course import check, hint, mine, plots, reset, solution  # noqa: F401
from minillm.course.scenes import generation_pictures
from minillm.course.scenes.sampling_explorer import shape_choice

torch.set_num_threads(1)  # the models of this lesson are small: a second thread would only wait for the first
words = ["mat", "sofa", "floor", "roof", "moon", "idea"]
logits = torch.tensor([3.0, 2.4, 2.0, 0.9, -0.5, -1.5])  # after "The cat sat on the"
settings = {"temperature 0.5": (0.5, 6, 1.0), "temperature 2": (2.0, 6, 1.0), "top-k 2": (1.0, 2, 1.0),
            "top-p 0.9": (1.0, 6, 0.9)}
figure, panels = plots.new_figure(4, width=11.0, height=2.9)
for axes, (title, (temperature, top_k, top_p)) in zip(panels, settings.items(), strict=True):
    choice = shape_choice(logits, temperature, top_k, top_p, min_p=0.0)
    generation_pictures.choice_bars(axes, words, choice.before, choice.after, title)
plots.show(figure, alt="Six words after 'The cat sat on the': temperature 0.5 sharpens the bars, 2 flattens them; "
           "top-k 2 leaves two words, top-p 0.9 leaves three")

# %% [markdown]
# The outlines are the same four times: what the model says. The bars are what is drawn from. A temperature changes all
# bars and forbids nothing. A filter forbids the unlikely tokens, and what is left shares their part.
#
# ## One token by hand
#
# Four words with logits 2, 1, 1 and 0. Take $e^z$ of each: 7.39, 2.72, 2.72, 1. Divide by their sum, 13.8, and you
# have the probabilities, which lesson 00 did with your `softmax`. **Greedy** choice takes the largest. For that
# nobody needs a softmax: it keeps the order.

# %% name="one_token_by_hand" tags=["compare"]
from minillm.layers import softmax

logits = torch.tensor([2.0, 1.0, 1.0, 0.0])
probs = softmax.softmax(logits)
assert torch.allclose(probs, logits.exp() / logits.exp().sum()) and abs(probs.sum().item() - 1) < 1e-6
print("probabilities ", [round(p, 3) for p in probs.tolist()], " greedy takes token", int(logits.argmax()))
draws = torch.multinomial(probs, 1000, replacement=True, generator=torch.Generator().manual_seed(0))
drawn = draws.bincount(minlength=4)
assert (drawn / 1000 - probs).abs().max() < 0.05 and drawn.min() > 0
print("of 1000 draws each token comes about as often as its probability says, and the last one comes too")

# %% [markdown]
# The division by a **temperature** T comes before the softmax:
#
# $$p_i = \frac{e^{z_i / T}}{\sum_j e^{z_j / T}}$$

# %% exercise="inference.sampling.apply_temperature"

# %% [markdown]
# **Predict.** A thousand random distributions over 50 tokens, at temperatures 0.1, 1 and 10. In how many of them does
# the likeliest token change?

# %%
guess_changed = None

# %% name="argmax_needs_no_softmax" tags=["compare"]
many = 2 * torch.randn(1000, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
at = {T: softmax.softmax(apply_temperature(many, T)) for T in (0.1, 1.0, 10.0)}
changed = sum(int((probs.argmax(-1) != many.argmax(-1)).sum()) for probs in at.values())
entropy = {T: -torch.special.xlogy(probs, probs).sum(-1) for T, probs in at.items()}
assert changed == 0 and (entropy[0.1] < entropy[1.0]).all() and (entropy[1.0] < entropy[10.0]).all()
print(f"you said {guess_changed}; the likeliest token changed in {changed} of 3000 cases")
for T, nats in entropy.items():
    taken = at[T].gather(1, many.argmax(-1, keepdim=True)).mean()
    print(f"temperature {T:4.1f}: entropy {nats.mean():.2f} nats, probability of the likeliest {taken:.2f}")

# %% [markdown]
# "The softmax selects the most probable token", one often reads. It selects nothing. It gives probabilities; choosing
# is another step, and the likeliest token is only one policy.

# %% [markdown]
# ## Three writers
#
# Distributions made by hand prove nothing about texts. So here are three small models, equal but for their seeds,
# that have read Python's documentation for a few seconds, in 512 BPE tokens (lesson 01). They know what the
# documentation looks like, and not what it means. That is enough for this lesson.

# %% name="three_writers"
from minillm.course.scenes.small_writers import train_writer
from minillm.text import corpora
from minillm.text.bpe import BPETokenizer

train_text, held_out = corpora.split_text(corpora.python_docs())
tokenizer = BPETokenizer.from_text(train_text, vocab_size=512)
token_ids = torch.tensor(tokenizer.encode(train_text))
writers = [train_writer(token_ids, 512, seed) for seed in tqdm((0, 1, 2), desc="writers")]

# %% name="twenty_four_beginnings" tags=["compare"]
unseen = torch.tensor(tokenizer.encode(held_out))
PROMPT, WRITTEN = 24, 64
starts = torch.linspace(0, len(unseen) - PROMPT - WRITTEN, 24).long()
people = torch.stack([unseen[start : start + PROMPT + WRITTEN] for start in starts])  # how the text really goes on
prompts = people[:, :PROMPT]
print("prompts", tuple(prompts.shape), "and what people wrote after them", tuple(people[:, PROMPT:].shape))

# %% name="entropy_by_temperature" tags=["compare"]
for writer in writers:
    with torch.no_grad():
        logits = writer(prompts)[:, -1].double()
    entropies = []
    for T in (0.25, 0.5, 1.0, 2.0):
        probs = softmax.softmax(apply_temperature(logits, T))
        assert (probs.argmax(-1) == logits.argmax(-1)).all()
        entropies.append(-torch.special.xlogy(probs, probs).sum(-1))
    assert all((low < high).all() for low, high in zip(entropies, entropies[1:], strict=False))
    assert entropies[0].mean() < 1.5 and entropies[3].mean() > 4
print("24 beginnings, 3 writers: at each the entropy rises from temperature 0.25 to 0.5, 1 and 2,")
print("and the likeliest token is the same at all four")

# %% [markdown]
# ## Filters
#
# At temperature 1 everything can be drawn, also what the model thinks nearly impossible. There are hundreds of such
# tokens, and together they weigh a lot. Three filters cut that tail off, each with another idea of where it begins.
#
# **Top-k**: the k likeliest stay.

# %% exercise="inference.sampling.top_k_filter"

# %% [markdown]
# **Top-p** (nucleus): the likeliest stay until their probabilities add up to p.

# %% exercise="inference.sampling.top_p_filter"

# %% [markdown]
# **Min-p**: who is at least p times as likely as the best stays.

# %% exercise="inference.sampling.min_p_filter"

# %% [markdown]
# **Predict.** Two distributions over 200 tokens. In the first one token has 95 % of the mass; in the second fifty
# tokens are equally likely, and the rest has almost nothing. How many tokens does each filter leave: top-k 10, top-p
# 0.9, min-p 0.1? Six numbers.

# %%
guess_sure, guess_open = ("?", "?", "?"), ("?", "?", "?")

# %% name="sure_and_open" tags=["compare"]
sure = torch.full((200,), 0.05 / 199).index_fill(0, torch.tensor(7), 0.95).log()
wide = torch.cat([torch.full((50,), 0.99 / 50), torch.full((150,), 0.01 / 150)]).log()
filters = {"top-k 10": lambda z: top_k_filter(z, 10), "top-p 0.9": lambda z: top_p_filter(z, 0.9),
           "min-p 0.1": lambda z: min_p_filter(z, 0.1)}
left = {name: tuple(int(shape(z).isfinite().sum()) for z in (sure, wide)) for name, shape in filters.items()}
# The 199 unlikely tokens are equal, and so are the fifty: top-k keeps all that equal its last.
for name, (n_sure, n_open) in left.items():
    print(f"{name:10s} leaves {n_sure:3d} tokens where the model is sure, {n_open:3d} where many would do")
assert left["top-p 0.9"][0] == left["min-p 0.1"][0] == 1 and 45 <= left["top-p 0.9"][1] <= 47
assert left["top-k 10"][0] == 200 and left["top-k 10"][1] == left["min-p 0.1"][1] == 50
print("you said", guess_sure, "and", guess_open)

# %% [markdown]
# Equal logits are a case of their own: your `top_k_filter` keeps all that equal the tenth. Real distributions have no
# ties, so ask a writer. A number of tokens that suits one place is wrong at the next; a share adapts:

# %% name="how_many_are_left"
with torch.no_grad():
    everywhere = torch.cat([writers[0](people[row : row + 1])[0].double() for row in range(24)])
spread = {}
for name, shape in filters.items():
    kept = shape(everywhere).isfinite()
    mass = (softmax.softmax(everywhere) * kept).sum(-1)
    spread[name] = kept.sum(-1).double().quantile(torch.tensor([0.1, 0.9]).double()).tolist()
    print(f"{name:10s} leaves {spread[name][0]:4.0f} to {spread[name][1]:4.0f} tokens (all but the outer tenths), "
          f"with {mass.min():.0%} to {mass.max():.0%} of the mass")
assert spread["top-k 10"] == [10, 10]
assert all(spread[name][1] > 3 * spread[name][0] for name in ("top-p 0.9", "min-p 0.1"))
tail = softmax.softmax(everywhere).sort(-1, descending=True).values[:, 50:].sum(-1)
share = (tail > 0.1).double().mean().item()
assert share > 0.5
print(f"at {share:.0%} of the places more than a tenth of the mass lies beyond the 50 likeliest of 512 tokens")

# %% [markdown]
# A fourth filter asks another question. The surprise of a token is −log p; its average over the distribution is the
# entropy. **Typical** sampling keeps the tokens whose surprise is nearest to the entropy, until they hold a given mass:
# what is far too surprising goes, and what is far too obvious goes too.
#
# **Predict.** One token has a probability of 0.4, sixty others have 0.01 each. What does top-p 0.5 leave, and what
# typical 0.5?

# %%
guess_top_p, guess_typical = "?", "?"

# %% name="typical_drops_the_obvious" tags=["compare"]
from minillm.inference.sampling import typical_filter

uneven = torch.tensor([0.4] + [0.01] * 60, dtype=torch.float64).log()
nucleus, usual = (shape(uneven, 0.5).isfinite() for shape in (top_p_filter, typical_filter))
assert nucleus[0] and not usual[0] and usual.sum() > 45
print("top-p 0.5 keeps the token of 0.4 and a few others; typical 0.5 drops just that one and keeps most of the others")
print("you said", guess_top_p, "and", guess_typical)
said = people[:, 1:].flatten()
for writer in writers:
    with torch.no_grad():
        logits = writer(people[:, :-1]).double().flatten(0, 1)
    nucleus, usual = (shape(logits, 0.5).isfinite() for shape in (top_p_filter, typical_filter))
    best_left = usual.gather(1, logits.argmax(-1, keepdim=True)).double().mean()
    by_people = [kept.gather(1, said[:, None]).double().mean().item() for kept in (nucleus, usual)]
    assert best_left < 0.4 and by_people[1] > by_people[0] + 0.03
    assert (logits.argmax(-1) == said).double().mean() < 0.3
print("typical 0.5 drops the likeliest token at more than 60 % of the places, in three writers of three,")
print("and yet leaves more of the tokens that people wrote there than top-p 0.5, which keeps the likeliest everywhere")

# %% [markdown]
# People seldom write what is most obvious: here at fewer than three places in ten. (With the usual setting, 0.9 or
# more, the likeliest mostly stays.)
#
# Filters and temperature are used together, and then the order matters. Nearly everywhere it is: penalties,
# temperature, top-k, top-p, min-p, typical, draw. A top-p of 0.9 after a temperature of 2 keeps far more than before
# it.

# %% name="the_order_matters" tags=["compare"]
hot_first = top_p_filter(apply_temperature(everywhere, 2.0), 0.9).isfinite().sum(-1)
hot_last = apply_temperature(top_p_filter(everywhere, 0.9), 2.0).isfinite().sum(-1)
assert (hot_first >= hot_last).all() and hot_first.double().mean() > 3 * hot_last.double().mean()
print("top-p 0.9 after temperature 2 keeps more than three times as many tokens as before it")

# %% [markdown]
# ## Let them write
#
# Two measures of a text. **Distinct-4** is the share of different runs of four tokens among all of them: 1 if none
# comes twice. And the **nats a token** that the model itself pays for it: how likely it finds its own text. The same
# two for what people wrote after the same beginnings.

# %% name="with_each_setting"
from minillm.inference.generate import generate
from minillm.inference.repetition import distinct_n, find_loop, token_nats


def measure_rows(writer, rows):
    """Distinct-4, nats a token, and how many of the rows end in a loop; of what follows the prompt."""
    written = rows[:, PROMPT:].tolist()
    variety = sum(distinct_n(row, 4) for row in written) / len(written)
    nats = token_nats(writer, rows)[:, PROMPT - 1 :].mean().item()
    return nats, variety, sum(find_loop(row) is not None for row in written)


ways = {"greedy": {"temperature": 0.0}, "T = 0.7": {"temperature": 0.7}, "T = 1": {}, "T = 1.5": {"temperature": 1.5},
        "top-k 10": {"top_k": 10}, "top-p 0.9": {"top_p": 0.9}, "min-p 0.1": {"min_p": 0.1},
        "typical 0.9": {"typical_p": 0.9}}
measured = {"people": [measure_rows(writer, people) for writer in writers]}
greedy_rows = []
for name, way in ways.items():
    rows = [generate(writer, prompts, WRITTEN, generator=torch.Generator().manual_seed(0), **way) for writer in writers]
    measured[name] = [measure_rows(*pair) for pair in zip(writers, rows, strict=True)]
    greedy_rows = rows if name == "greedy" else greedy_rows

# %% name="settings_measured"
for name, seeds in measured.items():
    print(f"{name:11s} nats a token", " ".join(f"{nats:.2f}" for nats, _, _ in seeds), "  distinct-4",
          " ".join(f"{variety:.2f}" for _, variety, _ in seeds), "  loops", " ".join(f"{n:2d}" for _, _, n in seeds))
for seed in range(3):
    nats = [measured[name][seed][0] for name in ("greedy", "T = 0.7", "T = 1", "T = 1.5")]
    variety = [measured[name][seed][1] for name in ("greedy", "T = 0.7", "T = 1", "T = 1.5")]
    assert nats == sorted(nats) and nats[3] > nats[0] + 2 and variety[0] < 0.8 < 0.9 < min(variety[1:])
    assert abs(nats[2] - measured["people"][seed][0]) < 0.3, "at temperature 1 as surprising as people, on average"
    assert all(measured[name][seed][0] < nats[2] - 0.25 for name in list(ways)[4:])

# %% [markdown]
# Read the table from the top. Drawing at temperature 1 gives texts that the model finds about as surprising as those
# of people. Lower temperatures and all filters make texts that are likelier than what people write, higher ones
# make nonsense. And the first line below the people is the strange one.
#
# ## The text that repeats itself
#
# Always take the likeliest token: what could be wrong with that? Look at what they wrote.

# %% name="greedy_falls_into_loops" tags=["compare"]
figure, panels = plots.new_figure(2, width=11.0, height=2.1)
for axes, seed in zip(panels, (0, 2), strict=True):
    loops = [find_loop(row) for row in greedy_rows[seed][:, PROMPT:].tolist()]
    row = max((i for i in range(24) if loops[i]), key=lambda i: loops[i].period * (loops[i].repeats > 3))
    pieces = [tokenizer.decode([token]) for token in greedy_rows[seed][row, PROMPT:].tolist()]
    generation_pictures.written_text(axes, tokenizer.decode(prompts[row].tolist()), pieces, loops[row],
                                     f"writer {seed}, greedy: a loop of {loops[row].period} tokens", width=60)
plots.show(figure, alt="Two texts in black (given) and blue (written) that fall into a loop, marked by coloured paper")
for seed in range(3):
    (_, variety, n_loops), (_, real, n_real) = measured["greedy"][seed], measured["people"][seed]
    assert variety < 0.8 < 0.9 < real and n_loops >= 3 and n_real == 0
    assert measured["T = 1"][seed][1] > 0.95 and measured["T = 1"][seed][2] <= 3
print("in each of three writers: greedy texts below 0.8 distinct-4 and several in a loop to their end,")
print("people above 0.9 and none in a loop, temperature 1 above 0.95")

# %% [markdown]
# This is the **repeater problem**, or degeneration. The usual explanation is bad training data. These models have read
# a well edited text, not even once through, and no sentence in it goes like that. So there must be another reason.
#
# First thought: at each step greedy is shortsighted. Perhaps a better search would find a better text, and no loop.
#
# ## Beam search
#
# The likeliest text is not made of the likeliest tokens. The smallest case that shows it:

# %% name="greedy_misses_the_likeliest" tags=["compare"]
first = {"the": 0.6, "a": 0.4}
second = {"the": {"dog": 0.4, "cat": 0.35, "end": 0.25}, "a": {"dog": 0.05, "cat": 0.9, "end": 0.05}}
figure, (axes,) = plots.new_figure(width=7.4, height=2.9)
generation_pictures.beam_tree(axes, first, second)
plots.show(figure, alt="A tree of six texts of two words. Greedy goes to 'the', 0.6, and 'dog': together 0.24. The "
           "likeliest is 'a cat': 0.4 times 0.9, 0.36")
texts = {(a, b): p * q for a, p in first.items() for b, q in second[a].items()}
assert max(texts, key=texts.get) == ("a", "cat") and abs(sum(texts.values()) - 1) < 1e-9
print("greedy: the dog, 0.24;  the likeliest: a cat, 0.36")

# %% [markdown]
# **Beam search** keeps the K likeliest beginnings instead of one. Each goes on with every token; of all these the K
# best stay.

# %% exercise="inference.beam.beam_step"

# %% name="two_beams_find_it" tags=["compare"]
names, ends = list(first), ["dog", "cat", "end"]
scores = torch.tensor([[first[a] for a in names]]).log()
log_probs = torch.tensor([[[second[a][b] for b in ends] for a in names]]).log()
best, parents, tokens = beam_step(scores, log_probs, 2)
found = [f"{names[p]} {ends[t]} {score:.2f}" for p, t, score in zip(parents[0], tokens[0], best[0].exp(), strict=True)]
assert found == ["a cat 0.36", "the dog 0.24"]
print("two beams find:", "; ".join(found))

# %% [markdown]
# **Predict.** Give the three writers 4 and 8 beams. Do their texts become likelier? And do the loops go away?

# %%
guess_beams = "?"

# %% name="beams_find_likelier_texts"
from minillm.inference.beam import beam_search

with mine.active():  # what runs in here are your functions, where you have them
    for n_beams in (4, 8):
        rows = [beam_search(writer, prompts, WRITTEN, n_beams=n_beams)[0][:, 0] for writer in writers]
        measured[f"{n_beams} beams"] = [measure_rows(*pair) for pair in zip(writers, rows, strict=True)]
for seed in range(3):
    nats = [measured[name][seed][0] for name in ("8 beams", "4 beams", "greedy", "T = 1")]
    assert max(nats[:2]) < nats[2] - 0.1 and nats[2] < nats[3] - 1 and nats[0] < nats[1] + 0.1
    print(f"writer {seed}, nats a token: 8 beams {nats[0]:.1f}, 4 beams {nats[1]:.1f}, greedy {nats[2]:.1f}")
    assert measured["8 beams"][seed][1] < 0.8 and measured["8 beams"][seed][2] >= 3
mean_nats = {name: sum(nats for nats, _, _ in measured[name]) / 3 for name in ("8 beams", "4 beams")}
assert mean_nats["8 beams"] < mean_nats["4 beams"]
print("4 beams find likelier texts than greedy, 8 on average likelier ones still; you said", guess_beams)
print("and the texts of 8 beams are below 0.8 distinct-4, with loops in all three")

# %% name="the_likelihood_trap" tags=["compare"]
shown = ("people", "T = 1", "top-p 0.9", "T = 0.7", "greedy", "8 beams")
figure = generation_pictures.trap_picture({name: [point[:2] for point in measured[name]] for name in shown})
plots.show(figure, alt="Likelihood against variety: people, T = 1 and top-p lie at the upper right; greedy and 8 beams "
           "lie far to the left and below: likelier, and repetitive")
for seed in range(3):
    human, greedy, beams = (measured[name][seed][0] for name in ("people", "greedy", "8 beams"))
    assert beams < greedy < human and human - greedy > 1.2 and beams < 0.5 * human
print("in each writer the texts of 8 beams cost it less than half of what people's text costs, a token")

# %% [markdown]
# So the search did its work. The likeliest texts *are* the loops. This is the **likelihood trap**: in a long text
# there is always something unexpected, and a text without any is one that nobody would write. Maximizing
# probability is the wrong aim for open-ended text, however well one does it.
#
# For closed tasks, where one answer is right, beams help. There they have another habit: every token costs
# probability, so short texts win. Beam search therefore divides by a power of the length.

# %% name="beams_like_short_texts" tags=["compare"]
newline = tokenizer.encode("\n")[-1]
lengths = {}
for penalty in (0.0, 1.0, 2.0):
    rows = [beam_search(writer, prompts, 24, n_beams=4, length_penalty=penalty, stop_ids=[newline], pad_id=-1)[0][:, 0]
            for writer in writers]
    lengths[penalty] = [(row[:, PROMPT:] >= 0).sum(-1).double().mean().item() for row in rows]
assert all(a < b < c for a, b, c in zip(*lengths.values(), strict=True))
print("a text ends with its line; 4 beams, three writers; mean length in tokens rises with the exponent in each:")
for penalty, word in zip(lengths, ("shortest", "longer", "longest"), strict=True):
    print(f"exponent {penalty:.0f}: {word}")

# %% [markdown]
# With exponent 0 the end of the line wins early. In a translation model that went as far as it can: for more than half
# of the sentences the likeliest translation of all was the empty one (Stahlberg and Byrne 2019, section 3).

# %% [markdown]
# ## Why once becomes twice becomes for ever
#
# A likely loop is one thing. But why does a text that has begun to repeat itself not stop? For this we take a model
# apart. It should be one that copies and does nothing else, so we train it on texts in which nothing can be foretold
# but what has been said before: 12 to 20 random symbols out of 32, and then the same again. Three seeds; two layers,
# and for comparison one.

# %% name="copiers"
from minillm.course.scenes.small_writers import train_copier

with tqdm(total=6, desc="copiers") as bar:
    copiers = {2: [], 1: []}
    for n_layers, steps in ((2, 200), (1, 100)):
        for seed in (0, 1, 2):
            copiers[n_layers].append(train_copier(n_layers, seed, steps))
            bar.update()

# %% [markdown]
# **Predict.** The first time, a symbol costs at least ln 32 = 3.47 nats; nobody can know it. What does it cost the
# second time, with two layers, and with one?

# %%
guess_second_time = {"two layers": None, "one layer": None}

# %% name="two_layers_copy" tags=["compare"]
from minillm.inference.induction import copying_nats, repeated_random, score_heads, without_head

echoes = repeated_random(64, 16, 2, 32, torch.Generator().manual_seed(2))
costs = {n: [copying_nats(model, echoes, 16).tolist() for model in models] for n, models in copiers.items()}
assert all(again < 0.25 * once for once, again in costs[2])
assert all(again > 0.6 * once for once, again in costs[1])
print("you said", guess_second_time)
print("two layers: the second time costs less than a quarter of the first, in three seeds of three")
print("one layer:  the second time costs more than 0.6 of the first, in three seeds of three")

# %% [markdown]
# One layer can learn *which* symbols are in the text, which saves a little. It cannot find the place. To see why, ask
# what each head of the first two-layer model looks at:

# %% name="induction_heads"
from minillm.layers.recorder import record

scores = [score_heads(model, echoes, 16) for model in copiers[2]]
with record("attn_weights") as tape, torch.no_grad():
    copiers[2][0](echoes[:1])
best = [scores[0].previous[0].argmax(), scores[0].induction[1].argmax()]
figure, panels = plots.new_figure(2, width=8.6, height=4.0)
for axes, layer, title in zip(panels, (0, 1), ("layer 0: one back", "layer 1: what came after it"), strict=True):
    plots.heat_map(axes, tape["attn_weights"][layer][0, best[layer]], [""] * 32, [""] * 32, title, low=0, high=1)
    axes.set(xlabel="key: 16 symbols, and the same again", ylabel="query")
plots.show(figure, alt="Two attention maps of 32 symbols. Left: a bright line just below the diagonal. Right: in the "
           "second half a bright line fifteen places back, at the symbol that follows")
for seed, score in enumerate(scores):
    print(f"seed {seed}: looks one back {score.previous.amax(1).tolist()[0]:.2f} in layer 0, "
          f"{score.previous.amax(1).tolist()[1]:.2f} in layer 1;  at the symbol to be copied "
          f"{score.induction.amax(1).tolist()[0]:.2f} and {score.induction.amax(1).tolist()[1]:.2f}")
    assert score.previous[0].max() > 0.3 > 0.1 > score.previous[1].max()
    assert score.induction[1].max() > 0.35 and score.induction[0].max() < 0.15

# %% [markdown]
# Two steps, one in each layer. In layer 0 every symbol looks **one place back** and notes what stood there. In layer 1
# a symbol A looks for the place whose note says A, and that is the place *after* the earlier A: it reads what stands
# there, B, and says B. *A B … A → B*. The pair is called an **induction head**. One layer cannot do it, because the
# note must have been written before it can be looked for.
#
# Is it these heads, or do they only look like it? Take them away.

# %% name="without_these_heads" tags=["compare"]
for seed, model in enumerate(copiers[2]):
    once, again = costs[2][seed]
    mute = {}
    for layer in (0, 1):
        silent = without_head(without_head(model, layer, 0), layer, 1)
        mute[layer] = copying_nats(silent, echoes, 16)[1].item()
    assert min(mute.values()) > 0.85 * once and again < 0.25 * once
print("the heads of either layer silent: the second time costs at least 0.85 of the first, in each of three seeds")

# %% [markdown]
# Now let them read six symbols again and again, and look at the price of each repetition.

# %% name="self_reinforcement"
from minillm.inference.repetition import repeat_nats

six = torch.randint(32, (64, 6), generator=torch.Generator().manual_seed(3))
price = {n: torch.stack([repeat_nats(model, six, 6).mean(0) for model in models]) for n, models in copiers.items()}
sentences = torch.stack([unseen[start : start + 12] for start in starts])
writer_price = torch.stack([repeat_nats(writer, sentences, 6).mean(0) for writer in writers])
figure, (axes,) = plots.new_figure(width=6.6, height=3.4)
times = list(range(1, 7))
series = {"two layers": price[2], "one layer": price[1], "the writers, on sentences": writer_price}
plots.line_chart(axes, {name: (times, values.mean(0).tolist()) for name, values in series.items()},
                 "Each repetition makes the next one cheaper", "the same for the ... time", "nats a token")
axes.set_ylim(bottom=0)
plots.show(figure, alt="With two layers the price falls from over 3 nats at the first time to below 1 at the fourth; "
           "with one layer it falls less; for the writers hardly")
probability = (-price[2]).exp()
print("two layers, probability of a symbol:", " ".join(f"{p:.2f}" for p in probability.mean(0).tolist()))
assert (price[2][:, :4].diff() < 0).all() and (price[2][:, 3] < 0.25 * price[2][:, 0]).all()
assert (price[1][:, 5] > 0.5 * price[1][:, 0]).all() and (writer_price[:, 1:] < writer_price[:, :1]).all()

# %% [markdown]
# That is **self-reinforcement**: each repetition makes the next one likelier, until hardly anything else has a chance.
# The writers have not grown such heads in their few seconds; a sentence that comes again is only a little cheaper for
# them, and their loops come from greedy choice alone. Larger models do have these heads, and use them for every name
# that is said a second time. Lesson 07 showed them growing.
#
# What if such a model is allowed to *draw*? Give the copiers a text that has begun to repeat itself, and count how many
# of the next 12 symbols go on with it. Chance would give 1 in 32.

# %% name="drawing_frees_it_slowly" tags=["compare"]
begun = six.repeat(1, 4)
goes_on = {}
for name, models in (("two layers", copiers[2]), ("one layer", copiers[1])):
    for temperature in (0.0, 1.0):
        rows = [generate(model, begun, 12, temperature=temperature, generator=torch.Generator().manual_seed(0))
                for model in models]
        goes_on[name, temperature] = [(row[:, 24:] == begun[:, :12]).double().mean().item() for row in rows]
for seed in range(3):
    assert goes_on["two layers", 0.0][seed] > 0.6 and goes_on["two layers", 1.0][seed] > 0.15
    assert goes_on["two layers", 1.0][seed] > 2 * goes_on["one layer", 1.0][seed]
print("two layers: more than 60 % of the next 12 symbols are copied greedily, more than 15 % at temperature 1")
print("at temperature 1 more than twice as many as with one layer, in three seeds of three")

# %% [markdown]
# Drawing breaks the loop sooner than greedy choice, but not at once: each step the odds are for going on. So the loops
# have several causes that add up. Texts of the highest probability are dull. Choosing greedily walks
# into them. Heads that copy, without which no model could use its context, make a repetition more and more certain.
# And texts that stand in the training data many times teach a model to copy even more: the copiers are the extreme
# case, they have read nothing else.

# %% [markdown]
# ## Find the bug: a penalty that rewards
#
# What helps? Make less likely what has been said. CTRL's **repetition penalty** divides the logits of tokens that have
# occurred by 1.3 or so. Here it is, as its paper writes it. Try it on one row before you trust it.

# %% name="a_penalty_that_rewards" tags=["compare"]
def as_the_paper_writes_it(logits, token_ids, penalty):
    said = torch.zeros_like(logits, dtype=torch.bool).scatter(1, token_ids, True)
    return torch.where(said, logits / penalty, logits)


row, said = torch.tensor([[4.0, 1.0, -1.0, -4.0]]), torch.tensor([[0, 3]])
before, after = softmax.softmax(row)[0], softmax.softmax(as_the_paper_writes_it(row, said, 2.0))[0]
for token in (0, 3):
    print(f"token {token} has been said: probability {before[token]:.4f} becomes {after[token]:.4f}")
assert after[0] < before[0] and after[3] > 10 * before[3]
shifted = softmax.softmax(row - 10)[0], softmax.softmax(as_the_paper_writes_it(row - 10, said, 2.0))[0]
print("the same probabilities with all logits 10 lower: token 0 becomes", f"{shifted[1][0]:.4f}")
assert torch.allclose(shifted[0], before) and shifted[1][0] > before[0]

# %% [markdown]
# Token 3 has been said, and the "penalty" makes it more than ten times as likely. Find the reason, and write the
# penalty so that it always is one.

# %% exercise="inference.penalties.repetition_penalty"

# %% name="the_penalty_is_mended" tags=["compare"]
for shift in (0.0, -10.0, 10.0):
    mended = softmax.softmax(repetition_penalty(row + shift, said, 2.0))[0]
    unsaid = mended[1] / mended[2]
    assert mended[0] < before[0] and mended[3] < before[3] and abs(unsaid - before[1] / before[2]) < 1e-2
    print(f"logits shifted by {shift:+.0f}: token 0 {before[0]:.2f} becomes {mended[0]:.2f}, token 3 falls too")

# %% [markdown]
# It is a penalty now, but its strength still depends on where the logits happen to lie, and a softmax does not care
# where they lie. The **frequency** and **presence** penalties subtract instead: so much for each occurrence, so much
# for having occurred at all. They have no such flaw.
#
# The strictest means forbids: no run of n tokens may come twice.

# %% exercise="inference.penalties.no_repeat_ngram"

# %% [markdown]
# ### What helps, measured
#
# All on top of greedy choice, with nothing else changed; below, for comparison, what you have measured already.

# %% name="penalties_at_work"
from minillm.inference.steering import Steering

means = {"repetition 1.3": Steering(repetition_penalty=1.3), "frequency 0.5": Steering(frequency=0.5),
         "presence 0.5": Steering(presence=0.5), "no 4 twice": Steering(no_repeat_ngram=4)}
with mine.active():
    for name, steering in means.items():
        rows = [generate(writer, prompts, WRITTEN, temperature=0.0, processors=steering.processors(PROMPT, ()))
                for writer in writers]
        measured[name] = [measure_rows(*pair) for pair in zip(writers, rows, strict=True)]
    generate(writers[0], prompts, 4, temperature=0.9, top_k=40, top_p=0.95, min_p=0.01)  # your filters, all together
for name in ("people", "greedy", "4 beams", "8 beams", *means, "min-p 0.1", "top-p 0.9", "typical 0.9", "T = 1"):
    print(f"{name:15s} distinct-4", " ".join(f"{variety:.2f}" for _, variety, _ in measured[name]), "  loops",
          " ".join(f"{n:2d}" for _, _, n in measured[name]))
mine.table()

# %% name="what_helps" tags=["compare"]
for seed in range(3):
    variety = {name: seeds[seed][1] for name, seeds in measured.items()}
    assert max(variety[name] for name in ("greedy", "4 beams", "8 beams")) < 0.8
    assert min(variety[name] for name in ("repetition 1.3", "frequency 0.5", "no 4 twice")) > variety["greedy"] + 0.15
    assert variety["presence 0.5"] > variety["greedy"] and variety["no 4 twice"] == 1.0
    assert min(variety[name] for name in ("top-p 0.9", "min-p 0.1", "typical 0.9")) > 0.9
print("in each of three writers: 4 and 8 beams stay below 0.8 distinct-4, drawing with a filter is above 0.9,")
print("penalties lift greedy texts by more than 0.15, and no run of four twice gives exactly 1")

# %% [markdown]
# And 1 is too much. People do repeat themselves: names, phrases, in code nearly everything. How many of *their*
# texts would the strictest rule have forbidden?

# %% name="people_repeat_too" tags=["compare"]
n_refused = sum(distinct_n(row, 4) < 1 for row in people[:, PROMPT:].tolist())
assert n_refused >= 5
print("at least 5 of 24 texts that people wrote say some run of four tokens twice: the rule forbids them")

record_text = '{"x": 1, "y": 1, "z": 1}'
letters = torch.tensor([list(record_text.encode())])
allowed = no_repeat_ngram(torch.zeros(1, 256), letters[:, :14], 3)
assert allowed[0, ord("1")] == float("-inf")
print(f"after {record_text[:14]!r} no run of three may come twice, so the 1 that is right is forbidden")

# %% [markdown]
# A rule that knows nothing of the meaning punishes where repetition is right. For code and JSON leave the
# penalties off.

# %% [markdown]
# ## Output that must have a form
#
# A program reads what the model writes, and wants a phone number, or JSON. Asking nicely helps sometimes. One thing
# helps always: forbid, at each step, every token that cannot lead to the wanted form. The form is a regular expression,
# and a regular expression is an automaton:

# %% name="an_automaton" tags=["compare"]
from minillm.inference.constrained.automaton import compile_regex

PHONE = r"\d{3}-\d{4}"
figure, (axes,) = plots.new_figure(width=9.0, height=1.9)
generation_pictures.automaton_chain(axes, ["0-9"] * 3 + ["-"] + ["0-9"] * 4, PHONE)
plots.show(figure, alt="Nine circles in a row, numbered 0 to 8; the arrows take three digits, a hyphen, four digits; "
           "the last circle is marked as the end")
automaton = compile_regex(PHONE)
for text in ("555-1234", "5551-234", "555-12"):
    print(f"{text:9s} {'matches' if automaton.matches(text) else 'does not match'}")
assert automaton.matches("555-1234") and not automaton.matches("5551-234") and not automaton.matches("555-12")

# %% [markdown]
# A token of our writers can be several letters long, so for every state and every token it must be known where the
# whole token leads. `TokenConstraint` makes that table once and then only looks things up.

# %% name="free_and_masked" tags=["compare"]
import re

from minillm.inference.constrained.constraint import TokenConstraint

call = torch.tensor([tokenizer.encode("The number is ")]).repeat(100, 1)
constraint = TokenConstraint(automaton, tokenizer, call.shape[1], max_new_tokens=8)
n_free, n_masked = 0, 0
for seed, writer in enumerate(writers):
    generator = torch.Generator().manual_seed(seed)
    free = generate(writer, call, 8, generator=generator)
    masked = generate(writer, call, 8, generator=generator, processors=[constraint], stop_ids=constraint.stop_ids)
    n_free += sum(re.match(PHONE, tokenizer.decode(row[call.shape[1] :].tolist())) is not None for row in free)
    n_masked += sum(re.fullmatch(PHONE, constraint.read(row)) is not None for row in masked)
print(f"begin with a phone number: at most 3 of 300 free, {n_masked} of 300 under the mask")
assert n_free <= 3 and n_masked == 300

# %% name="a_form_of_json" tags=["compare"]
import json

from minillm.inference.constrained.json_patterns import BOOLEAN, json_choice, json_object

form = json_object({"city": json_choice(["Paris", "Oslo"]), "people": r"[1-9]\d{0,6}", "coast": BOOLEAN})
fill = TokenConstraint(compile_regex(form), tokenizer, call.shape[1], max_new_tokens=48)
rows = generate(writers[0], call, 48, generator=torch.Generator().manual_seed(0), processors=[fill],
                stop_ids=fill.stop_ids)
read = [json.loads(fill.read(row)) for row in rows]
assert all(set(one) == {"city", "people", "coast"} and one["city"] in ("Paris", "Oslo") for one in read)
n_different = len({str(one) for one in read})
assert n_different > 20
print(f"{len(read)} of 100 texts are JSON with the three fields, and more than 20 of them are different")

# %% [markdown]
# The mask guarantees the *form*. It knows nothing of the content: these phone numbers belong to nobody, and a city has
# as many people as comes up. What a model should not say is another question; training, filters before and after, and
# people who try to break it make that less likely, and nothing makes it impossible.

# %% [markdown]
# ## Where a text ends
#
# `max_new_tokens` counts what is written; an older `max_length` counts the prompt too, and many a short answer came
# from that. An end token stops a row early, unless a least length forbids it. And a **stop string** must be found
# in the text, not in the tokens: it may begin in one token and end in another.

# %% name="never_before_its_time" tags=["compare"]
from minillm.inference.stopping import at_least, stop_at

same_prompt = prompts[:1].repeat(200, 1)
ends_at = {}
for least in (0, 10):
    rows = generate(writers[0], same_prompt, 40, generator=torch.Generator().manual_seed(0), stop_ids=[newline],
                    pad_id=newline, processors=[at_least(least, [newline], PROMPT)])
    new = rows[:, PROMPT:]
    ends_at[least] = [row.index(newline) if newline in row else 40 for row in new.tolist()]
early = [sum(end < 10 for end in ends) for ends in ends_at.values()]
print(f"of 200 texts that end with their line some end before their tenth token; with min_new_tokens=10: {early[1]}")
print("cut off at 40 tokens, finish_reason 'length':", sum(end == 40 for end in ends_at[10]) > 0)
assert early[0] > 3 and early[1] == 0

pieces = ["The answer is 42", ".\n", "\nQ", "uestion: and", " now?"]
kept = "".join(stop_at(pieces, ["\n\nQuestion:"]))
assert kept == "The answer is 42." and not any("\n\nQuestion:" in piece for piece in pieces)
print("pieces", pieces, "-> kept", repr(kept))

# %% [markdown]
# A piece that *could* be the beginning of a stop string is held back until it is clear: that is why a chat sometimes
# hesitates at the end of a line.
#
# ## Many at once
#
# Prompts of different lengths go through the model together if the short ones are padded *on the left*, so that all
# end in one column. The mask hides the padding, and positions are counted from each row's first real token.

# %% name="left_padding" tags=["compare"]
from minillm.inference.left_padding import left_pad

uneven = [people[i, : 5 + 3 * i].tolist() for i in range(6)]
padded, padding_mask = left_pad(uneven)
together = generate(writers[0], padded, 30, temperature=0.0, padding_mask=padding_mask)[:, -30:]
alone = torch.cat([generate(writers[0], torch.tensor([row]), 30, temperature=0.0)[:, -30:] for row in uneven])
assert torch.equal(together, alone) and padding_mask.sum(1).tolist() == [len(row) for row in uneven]
unmasked = generate(writers[0], padded, 30, temperature=0.0)[:, -30:]
print("lengths", [len(row) for row in uneven], "in one batch", tuple(padded.shape), "- the same tokens as one by one")
n_other = int((unmasked != alone).any(1).sum())
assert n_other > 0
print("without the mask other texts come out for some of the rows:", n_other > 0)

# %% [markdown]
# ## Myth and measurement
#
# "To make a text more diverse, tune the beam width." It is given as a cure for repetition, too. It tempts: more beams,
# more texts to choose from. But they all chase the same thing. Take *all eight* beams of each prompt and compare them
# with eight draws.

# %% name="wider_is_not_more_diverse"
def different_runs(texts):
    """Of all runs of four tokens in some texts together, the share that are different."""
    runs = texts.unfold(1, 4, 1).flatten(0, 1)
    return len(runs.unique(dim=0)) / len(runs)


of_eight = {}
for seed, writer in enumerate(writers):
    beams = beam_search(writer, prompts[::4], 40, n_beams=8)[0][:, :, PROMPT:]
    draws = generate(writer, prompts[::4].repeat_interleave(8, 0), 40, top_p=0.9,
                     generator=torch.Generator().manual_seed(0))[:, PROMPT:].view(6, 8, 40)
    of_eight[seed] = [sum(map(different_runs, texts)) / 6 for texts in (beams, draws)]
    print(f"writer {seed}: different runs of four in eight texts together: {of_eight[seed][0]:.2f} of the beams', "
          f"{of_eight[seed][1]:.2f} of the draws'")
assert all(beams < 0.3 and draws > 0.8 for beams, draws in of_eight.values())

# %% [markdown]
# The eight beams are almost one text in eight copies. Width tunes how *likely* the text is, and you have seen what
# likely texts look like.

# %% [markdown]
# ## Explore
#
# A writer's next token, with everything in your hands. Turn the temperature to 3 and save the text with min-p. Find the
# smallest top-p that still lets three different continuations come. Turn typical down until the likeliest token is
# forbidden. Then write a beginning that repeats itself.

# %% name="explorer"
from minillm.course.scenes.sampling_explorer import sampling_widget

sampling_widget(writers[0], tokenizer, "The value of the")

# %% [markdown]
# ## Interview corner
#
# Answer aloud before you unfold. Each answer names the cell that proves it.

# %% [markdown] interview="09"

# %% [markdown]
# ## Remember
#
# 1. A model gives probabilities; choosing is yours. Temperature rescales all logits and keeps their order; filters cut
#    the tail, and a share (top-p, min-p) adapts where a number (top-k) cannot.
# 2. The likeliest text is a loop. Better search finds it sooner; drawing avoids it; a penalty treats the symptom and
#    hurts where repetition is right.
# 3. Induction heads, one that looks back and one that copies, make a repetition certain. A mask can guarantee the form
#    of a text, and never its content.
#
# **Where next.** Lesson 10 opens the cache that made all this writing cheap. Lesson 12 lets a small model write and a
# large one check, without changing a single probability.
