# %% [markdown]
# # 00 · Start here
#
# In the first half of this lesson a GPT learns to tell stories, from nothing, on the processor in front of you, while
# you watch. Then you talk to it. In the second half you pick up the few tools that all other lessons lean on, and
# write the first three functions of your own language model.
#
# | | |
# |---|---|
# | You will build | `broadcast_pairwise`, `softmax`, `log_softmax` |
# | You need | Python; what a function, a logarithm and a matrix are. No machine learning |
# | Your time | about 75 minutes, half an hour of it for the exercises |
# | The machine's | two processor cores and 2 GB of memory; no GPU, no network. About a minute of computing |
# | Sources | Goodfellow et al. 2016, *Deep Learning*, sections 4.1 and 6.2.2.3 (softmax) |
# | | NumPy documentation, "Broadcasting"; Strang 2016, *Introduction to Linear Algebra*, chapters 3 and 7 (rank) |
# | | Vaswani et al. 2017, *Attention Is All You Need* (the model, from lesson 02 on) |
#
# **New to notebooks?** Click on a cell of code and press **Shift + Enter**: it runs, and what it shows appears below
# it. *Run → Run All Cells* runs the whole page; if something is stuck, *Kernel → Restart Kernel and Run All Cells*
# starts it afresh.

# %% [markdown]
# ## 1 · A language small enough to know everything about
#
# English is too large to learn in half a minute, and nobody knows how good a model of English could possibly be. So
# the course has a language of its own: little stories, told by a grammar that throws dice. Here is one of them. Run
# the cell.

# %% name="first_picture"
import random

from minillm.course import plots
from minillm.course.scenes.story_pictures import surprise_picture
from minillm.course.scenes.story_surprise import word_surprises
from minillm.text.stories import StoryLanguage

language = StoryLanguage()
story = language.sample(random.Random(7))
surprises = word_surprises(language, story)
assert abs(sum(word.nats for word in surprises) + language.log_prob(story)) < 1e-9
plots.show(
    surprise_picture(surprises),
    alt="A story, with a bar over each word as high as its surprise. Names, things and places have high bars "
    "where they first come up, and none when they come again.",
)

# %% [markdown]
# The bars are the **surprise** of each word for someone who knows the grammar perfectly. A word that had probability
# $p$ costs $-\ln p$; the unit is called a **nat**. A coin tossed heads costs $\ln 2 \approx 0.7$ nats; one friend's
# name out of sixteen costs $\ln 16 \approx 2.8$; what had to come costs nothing.
#
# There are three kinds of words:
#
# - **choices**, with a bar: nobody can know them in advance;
# - words that **always follow** (grey): easy once you know how sentences are made;
# - words that **must be remembered** (blue): whose cat it is, where the umbrella went, what a cat says. They cost
#   nothing *if you kept in mind what was said before*. For a machine, this is the hard part, and this course is about
#   the part of a GPT that does it: attention.
#
# The mean surprise of a whole story is the **entropy** of the language. It is the floor: no model, however large, can
# do better on average. Because we have the grammar, we can compute it exactly. For English nobody can.

# %% name="the_floor" tags=["compare"]
import math

import torch

floor = language.entropy()
rows = language.sample_batch(4096, torch.Generator().manual_seed(0))  # a story a row, as numbers
targets = rows[:, 1:][rows[:, 1:] != language.tokenizer.pad_id]
words_per_story = len(targets) / len(rows)

sample = [-language.log_prob(language.tokenizer.decode(row)) for row in rows[:256].tolist()]
spread = torch.tensor(sample).std().item() / math.sqrt(len(sample))
assert abs(sum(sample) / len(sample) - floor) < 5 * spread
print(f"the floor:  {floor:.2f} nats a story")
print(f"vocabulary: {language.tokenizer.vocab_size} words and marks (three of them say: begin, end, nothing)")
print(f"a story:    {words_per_story:.1f} words and marks on average, its end counted")

# %% [markdown]
# **Predict.** Someone knows the vocabulary and nothing else. At each place they find every word equally likely. What
# does a story cost them? Put your estimate in the next cell before you run the one after it. A rough one will do.

# %%
my_guess = 100  # nats a story: change me

# %% name="what_guessing_costs" tags=["compare"]
uniform = words_per_story * math.log(language.tokenizer.vocab_size)

share = torch.bincount(targets, minlength=language.tokenizer.vocab_size) / len(targets)
share = share[share > 0]
frequencies = words_per_story * -(share * share.log()).sum().item()

assert floor < 0.2 * frequencies and frequencies < uniform
print(f"all words equally likely:           {uniform:6.1f} nats a story (you said {my_guess})")
print(f"knowing how often each word occurs: {frequencies:6.1f}")
print(f"knowing the language:               {floor:6.1f}")

# %% [markdown]
# Knowing how frequent each word is helps very little. Almost everything lies in what came before. Between the second
# line and the third is what a language model has to learn.

# %% [markdown]
# ## 2 · Watch it learn
#
# A **language model** is one function: the words so far go in, a probability for every possible next word comes out.
# A **GPT** is a language model with attention in it. Training shows it story after story. Each time, all its numbers
# are nudged a little, in the direction that makes the word that really came next more probable. That is all. Nothing
# in it knows what a name is, or a cat.
#
# Here is a small one, fresh from the dice. GPT-2 is made of parts of the same kinds, more and larger ones; lesson 07
# puts both together.

# %% name="before_training" tags=["compare"]
from minillm.config import preset
from minillm.course.scenes.story_talk import tell_on
from minillm.model.gpt import GPT

generator = torch.Generator().manual_seed(0)
model = GPT(preset("tiny", vocab_size=language.tokenizer.vocab_size, max_seq_len=language.max_len), generator)
n_params = sum(parameter.numel() for parameter in model.parameters())
assert not language.check(tell_on(model, language, "Mia had a")).ok
print(f"{n_params:,} numbers, and they know nothing yet")

# %% [markdown]
# **Predict.** How will the surprise come down from the start to the floor? Choose:
#
# - **A** fast at first, then ever slower: one smooth slide;
# - **B** fast at first, then much slower, as if it were nearly done, and then down a second time;
# - **C** in many small steps, as it learns word after word.

# %%
my_curve = "A"  # change me

# %% [markdown]
# Now run it, and watch. The left curve is what a story costs the model, on stories that it never sees in training;
# its scale is logarithmic. The right curve is the part of it that memory would save, the blue words. Every few
# seconds the model tells a story of its own.

# %% name="watch_it_learn"
from minillm.course.scenes.story_watch import StoryWatch
from minillm.text.batches import story_batch
from minillm.training.loop import train
from minillm.training.recipe import Recipe
from minillm.training.threads import use_fastest_threads

read = set()  # every story that it reads, for a question in section 3


def fresh_stories(n_stories=32):
    while True:
        token_ids, targets = story_batch(language, n_stories, generator)
        read.update(language.tokenizer.decode(row) for row in token_ids.tolist())
        yield token_ids, targets


use_fastest_threads()
watch = StoryWatch(model, language)
run = train(model, fresh_stories(), Recipe(), seconds=30, callbacks=[watch])
if watch.looks[-1]["remembered"] > 2:  # a slow or busy machine: as long again
    run = train(model, fresh_stories(), seconds=60, callbacks=[watch], state=run)

# %% [markdown]
# The same from a terminal, for a minute, and with the model kept in a file:
#
# ```
# python -m minillm train --seconds 60 python -m minillm chat
# ```

# %% name="what_it_learned"
first, last = watch.looks[0], watch.looks[-1]
assert first["story"] > uniform, "worse than guessing blindly"
assert last["story"] < 0.5 * frequencies and last["story"] < first["story"]
remembers = next((look for look in watch.looks if look["remembered"] < 2.0), None)

print(f"at the start {first['story']:6.1f} nats a story; guessing blindly would cost {uniform:.1f}")
print(f"at the end   {last['story']:6.1f}, with {last['remembered']:.2f} of them for words that it should remember")
print(f"the floor    {floor:6.1f}")
knows = next((look for look in watch.looks if look["remembered"] < 1.1 * watch.forgetting), last)
print(f"\nYou said {my_curve}. At second {knows['seconds']:.0f} it knew about all that one can know without memory.")
if remembers:
    print(f"At second {remembers['seconds']:.0f} it remembered: it lost less than 2 nats on words said before.")
else:
    print("It does not remember yet: your machine needs longer. Run the cell above again with larger numbers of")
    print("seconds, after the cell that makes the model.")

# %% [markdown]
# Three things are worth a second look.
#
# **It starts worse than ignorant.** A model that knows nothing *and says so* would pay the price of blind guessing.
# Ours is sure of nonsense: its first story says one word again and again. In this model the same table of vectors
# reads the words in and spells the answers out, so at the start the answer that fits a word best is that word itself.
# Lesson 07 builds that table in.
#
# **Then the words fall into place**: first how often each occurs, then which follows which. The stories sound right,
# and they contradict themselves. Read them closely.
#
# **Then comes the slow part, and it is about memory.** The right curve bends near the dotted line: that is what it
# costs to know the language and remember nothing, one thing out of ten, one place out of eight. Some runs rest there
# for a while, others go on slowly. Then they drop, in one go or in two, to nearly nothing, and with them the left
# curve comes down a second time to the floor (B, if the run was long enough). Why does memory come last? A likely
# reason: the model has to find out where to look back *and* what to do with what it finds there, and each of the two
# is of little use before the other is there. Lesson 02 builds the part that looks back, attention; lesson 07 puts a
# model together from it.

# %% [markdown]
# ## 3 · Does it make sense? Let a checker decide
#
# Single stories prove little: one can always find a good one. The course has a checker, a parser that knows the
# grammar and shares no code with the model. We let the model tell 200 stories, each word drawn with exactly the
# probability that the model gives it, and have them all judged.

# %% name="two_hundred_stories"
from minillm.inference.evaluate import sample_stories

told = sample_stories(model, language, 200, generator=torch.Generator().manual_seed(1))
good = [story for story in told if language.check(story).ok]
bad = [story for story in told if not language.check(story).ok]
untrained = GPT(model.config, torch.Generator().manual_seed(0))
before = sample_stories(untrained, language, 200, generator=torch.Generator().manual_seed(1))

n_before = sum(language.check(story).ok for story in before)
assert n_before == 0
assert all(language.log_prob(story) > -math.inf for story in good)
print(f"before training {n_before} of 200 are stories, after training {len(good)}")
for title, stories in (("One that is:", good), ("One that is not:", bad)):
    print("\n" + title, stories[0] if stories else "(none)")
if bad:
    print("->", language.check(bad[0]).why)

# %% [markdown]
# A story has some fifty words, and a single wrong one spoils it, so the checker is strict: a model that is right at
# 999 words of 1000 gets about 95 stories of 100 right.
#
# ### The popular wrong answer: "it only repeats what it has read"
#
# Now you need the set `read`. How many of its good stories stood, word for word, among the stories that it was
# trained on? Say a number first.

# %% name="not_a_parrot"
repeated = [story for story in good if story in read]
assert len(repeated) <= 2
assert 0.94 < 0.999**words_per_story < 0.96  # "about 95 of 100", above
print(f"it has read      {len(read):,} stories")
print(f"it told          {len(good)} good ones")
print(f"word for word    {len(repeated)} of them stood among those it has read")
print(f"possible stories {round(math.exp(floor), -9):,.0f}, if all were equally likely")

# %% [markdown]
# It cannot be repeating: there are far more stories than it could ever read, and it never read one twice on purpose.
# What it took in is the rule. The answer is not the same for every model: one that meets the same page hundreds of
# times can learn it by heart. Lesson 01 is about such things.

# %% [markdown]
# ## 4 · Talk to it
#
# Give it a beginning, and it tells on. Change the words between the quotation marks and run the cell again. It knows
# the 125 words of its language and no others; it says so if you use another.

# %% name="talk_to_it" tags=["raises-exception"]
beginning = "Once upon a time Zoe and her owl"

print(tell_on(model, language, beginning, temperature=1.0, seed=1))

# %% [markdown]
# Things to try: a hero and a thing only (`"Omar had a golden"`). A story half told that you broke off yourself. A
# beginning that no story of the language has (`"Tom and her"`): which pronoun does it use later, yours or its own?
#
# The same with controls. On the right are the model's probabilities for the very next word, and beside each the
# probability that the grammar gives it: compare the bars with the marks. `temperature` below 1 makes the model play
# safe, above 1 it becomes bold, and in the end foolish. Section 9 shows what it does to the numbers.

# %% name="explore"
from minillm.course.scenes.story_talk import talk_widget

talk_widget(model, language, "Mia and her dog Pip")

# %% [markdown]
# ## 5 · What you have just seen, and where it is opened up
#
# | what happened | lesson |
# |---|---|
# | text became numbers; the story language and its entropy | 01 tokens and data |
# | the model looked back for what was said | **[02 attention](02_attention.ipynb)**, 03 its variants |
# | it knew the order of the words | 04 positions |
# | the layers between, which keep the numbers in range and work on each word by itself | 05 norms, 06 FFN |
# | all of it together: a model | **[07 the tiny GPT](07_tiny_gpt.ipynb)** |
# | the numbers were nudged, and the curve came down | 08 training |
# | words were drawn from probabilities | 09 generation |
# | what was read once was not computed again for each new word | 10 KV cache |
# | smaller, faster, for many people at once | 11 quantization, 12 serving, 14 compression |
# | made to do what you want | 13 LoRA and friends, 15 alignment |
# | the same classes with real, pretrained weights | 16 a real model |
# | can you explain it to an interviewer? | 17 mock interview |
#
# Linked lessons are there to open; the others follow. You need not read in order, but 02 before 07 makes sense.
#
# The rest of this lesson is about the tools. None of them is there for its own sake: each is a piece of the model
# that has just talked to you.

# %% [markdown]
# ## 6 · Tensors: numbers with a shape
#
# A **tensor** is a box of numbers with a shape. A single number has shape `()`, a vector of three `(3,)`, a matrix of
# two rows and three columns `(2, 3)`. Everything in a model is a tensor, and most mistakes are mistakes about shapes.
# So the course always says what each axis means, with the same letters: **B** sequences in a batch, **T** tokens in a
# sequence, **D** numbers that describe a token, **V** words of the vocabulary.
#
# Follow a batch through the model. **Predict** the third shape before you run it: for each place in each story, a
# score for each word that could come next.

# %% name="follow_the_shapes" tags=["compare"]
token_ids, targets = story_batch(language, 4, torch.Generator().manual_seed(3))
vectors = model.tok_emb(token_ids)
with torch.no_grad():
    logits = model(token_ids)

assert logits.shape == (*token_ids.shape, language.tokenizer.vocab_size)
assert torch.equal(token_ids[:, 1:], targets[:, :-1].where(targets[:, :-1] >= 0, 0))  # the next word is the target
for name, tensor, axes in (
    ("token_ids", token_ids, "B, T"),
    ("vectors", vectors, "B, T, D"),
    ("logits", logits, "B, T, V"),
):
    print(f"{name:10} ({axes:7})  {tuple(tensor.shape)}")
begins = token_ids[0, :6].tolist()
print("the first story begins", begins, "=", language.tokenizer.decode(begins))

# %% [markdown]
# ## 7 · Broadcasting: every pair at once
#
# What happens if two tensors of different shapes are subtracted? Write their shapes one above the other, **flush
# right**. Each pair of sizes must be equal, or one of the two must be 1 (or missing, which counts as 1). The 1 is
# stretched to the other's size. Anything else is an error. That is the whole rule.
#
# The smallest case that shows it, a column minus a row:

# %% name="column_minus_row"
column, row = torch.tensor([[3], [5], [9]]), torch.tensor([[1, 2, 5, 9]])
table = column - row

assert table.shape == (3, 4) and table[1, 2] == 5 - 5
figure, panels = plots.new_figure(columns=3, width=7.6, height=2.4)
left, top = ["3", "5", "9"], ["-1", "-2", "-5", "-9"]
plots.heat_map(panels[0], column, [""] * 3, [""], "column (3, 1)", low=-6, high=9, numbers=".0f")
plots.heat_map(panels[1], row, [""], [""] * 4, "minus row (1, 4)", low=-6, high=9, numbers=".0f")
plots.heat_map(panels[2], table, left, top, "table (3, 4)", low=-6, high=9, numbers=".0f")
plots.show(figure, alt="A column of three numbers minus a row of four gives a table of three by four.")

# %% [markdown]
# **Predict.** Three subtractions, and an interview question that many get wrong. `a` has shape (22, 1). What is the
# shape of `a - b` if `b` has shape (12,)? Shape (1, 12)? Shape (12, 1)? Note your three answers, then run.

# %% name="three_subtractions" tags=["compare"]
a = torch.arange(22.0)[:, None]
for b in (torch.zeros(12), torch.zeros(1, 12), torch.zeros(12, 1)):
    try:
        print(tuple(a.shape), "-", f"{tuple(b.shape)!s:8}", "->", tuple((a - b).shape))
    except RuntimeError as error:
        print(tuple(a.shape), "-", f"{tuple(b.shape)!s:8}", "-> RuntimeError:", error)
        refused = tuple(b.shape)

assert (a - torch.zeros(12)).shape == (a - torch.zeros(1, 12)).shape == (22, 12) and 22 * 12 == 264
assert refused == (12, 1)
assert torch.zeros(1, 12).expand(22, 12).stride() == (0, 1)  # stretched by a step of 0: nothing is copied
silent = a - torch.zeros(22)
assert silent.shape == (22, 22) and silent.numel() == 484
print("and beware:", tuple(a.shape), "- (22,)    ->", tuple(silent.shape))

# %% [markdown]
# The popular wrong answer to the third is "(22, 1): the 12 values are repeated until they fill 22". Nothing is ever
# repeated to fit. Only a size of exactly 1 is stretched, and that without copying anything. An error is the friendly
# outcome; the last line shows the unfriendly one, and you will meet it again in a moment.
#
# ### How the exercises work
#
# An exercise is a cell with a function that lacks its body, and below it a cell that checks it. The check draws new
# inputs each time, compares with an independent calculation, and tells you *which* mistake you made. Watch it at work
# on a wrong answer, given on purpose: the exercise asks for every pair, and `sub` subtracts element by element.

# %% name="wrong_on_purpose" tags=["compare"]
from operator import sub

from minillm.course import check

broadcast_pairwise = sub  # wrong on purpose
broadcast_pairwise = check("layers.pairwise.broadcast_pairwise")

# %% [markdown]
# You are never blocked: after a failed check, or none, the lesson goes on with the course's own function. And there
# is help:

# %% name="help_that_you_can_call" tags=["compare"]
from minillm.course import hint, progress, reset, solution

for helper in (hint, solution, reset, progress):
    print(f"{helper.__name__:9}", helper.__doc__.partition("\n")[0])

# %% [markdown]
# The first three want the name of the exercise: write `hint("layers.pairwise.broadcast_pairwise")` into any cell. The
# hints also stand folded under each task.
#
# Now the real thing. Later, all masks and all relative positions of the model are made by this function.

# %% exercise="layers.pairwise.broadcast_pairwise"

# %% [markdown]
# ### Use it: who may look at whom
#
# Number the places of a sentence 0, 1, 2, … and form all differences: that is the distance from every word to every
# word. When the model predicts, a word may look at itself and at what came before, never at what is still to come. In
# the table this is one comparison: distance at least 0. Such a table of yes and no is a **mask**; lesson 02 is built
# on it.

# %% name="who_may_look_at_whom"
from minillm.layers import masks

words = "Zoe had a cat called Dot .".split()
positions = torch.arange(len(words))
distance = broadcast_pairwise(positions, positions)
may_look = distance >= 0

assert torch.equal(may_look, masks.causal_mask(positions, positions))
figure, panels = plots.new_figure(columns=2, width=8.4, height=4.0)
plots.heat_map(panels[0], distance, words, words, "distance: row minus column", numbers=".0f")
plots.heat_map(panels[1], may_look, words, words, "may the row look at the column?", numbers=".0f")
plots.show(figure, alt="Left, the distances between seven words, 0 on the diagonal. Right, the mask: 1 where a word "
           "may look, on the diagonal and below it, and 0 above.")

# %% [markdown]
# **A question for your function.** How far back does a model have to look to tell these stories? Would it do to see
# the last eight words only? Two tables answer it, and your function makes both: distances between places, and
# differences between word numbers, which are 0 where two words are the same.

# %% name="how_far_back" tags=["compare"]
from minillm.course.scenes.story_surprise import remembered_mask

some = rows[:256]
places = torch.arange(some.shape[1])
distance = broadcast_pairwise(places, places)
same_before = (broadcast_pairwise(some, some) == 0) & (distance > 0)  # (256, T, T): the same word, earlier
nearest = distance.where(same_before, 99).amin(-1)  # (256, T): how far back it is
looked_up = nearest[remembered_mask(language, some) & same_before.any(-1)]

within_8, farthest = (looked_up <= 8).float().mean(), looked_up.max()
assert within_8 < 0.5 and farthest >= 30
print(f"{len(looked_up)} words to be copied in {len(some)} stories")
print(f"the word stands within the last 8 words in {within_8:.0%} of the cases")
print(f"half of them are more than {looked_up.median()} words away, the farthest {farthest}")

# %% [markdown]
# Eight words are not enough for most of them. A model of this language needs a way to look far back, and to find the
# right place there. Attention is that way.
#
# ### Find the bug
#
# Sixty-four points on a line that rises by 3, with some noise. The cell fits a line by walking downhill on the mean
# squared error. The loss falls, there is no error message, and the result is wrong. Run it, look at the picture, find
# the bug and mend it. There is one wrong line, and you have seen its kind in this section.

# %% name="a_line_that_does_not_fit" variant="blank"
noise = torch.randn(64, generator=torch.Generator().manual_seed(0))
x = torch.linspace(-1, 1, 64)[:, None]  # (64, 1): one feature a point
y = 0.5 + 3 * x[:, 0] + 0.2 * noise  # (64,): one number a point

slope, offset = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
losses = []
for _ in range(200):
    prediction = slope * x + offset
    error = prediction - y
    loss = (error**2).mean()
    loss.backward()
    with torch.no_grad():
        for parameter in (slope, offset):
            parameter -= 0.1 * parameter.grad
            parameter.grad = None
    losses.append(loss.item())
print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}, slope {slope.item():.2f}")

# %% name="a_line_that_fits" variant="solved"
noise = torch.randn(64, generator=torch.Generator().manual_seed(0))
x = torch.linspace(-1, 1, 64)[:, None]  # (64, 1): one feature a point
y = 0.5 + 3 * x[:, 0] + 0.2 * noise  # (64,): one number a point

slope, offset = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
losses = []
for _ in range(200):
    prediction = slope * x + offset
    error = prediction - y[:, None]  # (64, 1) - (64, 1); with y alone it was (64, 1) - (64,), a table of (64, 64)
    loss = (error**2).mean()
    loss.backward()
    with torch.no_grad():
        for parameter in (slope, offset):
            parameter -= 0.1 * parameter.grad
            parameter.grad = None
    losses.append(loss.item())
print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}, slope {slope.item():.2f}")

# %% name="does_it_fit" tags=["compare"]
figure, (axes,) = plots.new_figure(width=5.2, height=2.8)
axes.plot(x[:, 0], y, "o", color=plots.COLOURS[1], markersize=4, label="points")
axes.plot(x[:, 0], (slope * x + offset).detach()[:, 0], color=plots.COLOURS[0], linewidth=2, label="fitted line")
axes.legend(fontsize=9, frameon=False)
plots.show(figure, alt="Sixty-four points that rise from left to right, and the line that was fitted to them.")

if abs(slope.item() - 3) < 0.3 and error.numel() == 64:
    print("Mended: the line follows the points.")
else:
    print("Not yet: 64 points have 64 errors. How many does `error` hold? print(error.shape) tells you where to look.")

# %% [markdown]
# <details>
# <summary>What was wrong, and why it is worth remembering</summary>
#
# `prediction` has shape (64, 1) and `y` has shape (64,). Their difference is a table of every prediction against
# every target, 4096 numbers, and the loss is their mean. The best that a line can do against *all* targets at once is
# to lie flat at their mean, so that is what it learns. The loss falls on the way there, which is why nobody notices.
# `y[:, None]` (or `prediction[:, 0]`) mends it; printing shapes finds it.
#
# </details>
#
# The next cell proves it: with the bug, the flat line is the best of all.

# %% name="the_silent_table" tags=["compare"]
def wrong_loss(slope, offset):
    return ((slope * x + offset - y) ** 2).mean().item()


best = min((wrong_loss(s / 10, y.mean()), s / 10) for s in range(-50, 51))
assert best[1] == 0.0 and abs(best[0] - y.var(unbiased=False).item()) < 1e-4
assert wrong_loss(3, 0.5) > 2 * best[0] * 0.9
print(f"of 101 slopes from -5 to 5 the wrong loss likes {best[1]:.1f} best")

# %% [markdown]
# ## 8 · Rank: how much a matrix lets through
#
# A matrix turns vectors into vectors. Its **rank** is the number of independent directions that come out: the
# dimension of everything it can produce. Look at what two matrices make of a circle.

# %% name="circle_through_two_matrices"
angle = torch.linspace(0, 2 * math.pi, 60)
circle = torch.stack([angle.cos(), angle.sin()])  # (2, 60)
figure, panels = plots.new_figure(columns=3, width=8.4, height=3.0)
matrices = [[1.0, 0.0], [0.0, 1.0]], [[2.0, 1.0], [1.0, 1.5]], [[2.0, 1.0], [1.0, 0.5]]
for axes, matrix in zip(panels, matrices, strict=True):
    out = torch.tensor(matrix) @ circle
    rank = int(torch.linalg.matrix_rank(torch.tensor(matrix)))
    axes.scatter(*out, c=angle, cmap=plots.COLOUR_MAP, s=14)
    axes.set(xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), aspect="equal", title=f"{matrix}\nrank {rank}")
    axes.title.set_fontsize(9)
assert rank == 1
plots.show(figure, alt="A circle; the ellipse that a matrix of rank 2 makes of it; the line that one of rank 1 makes.")

# %% [markdown]
# The last matrix presses the circle flat: its second row is half of its first. Different points land on the same
# spot, and no matrix can pull them apart again.
#
# **Predict.** The matrix below has two rows and three columns. It keeps the first two numbers of a vector and drops
# the third; its rank is 2, as many as it has rows. Has it an inverse?

# %% name="full_rank_is_not_invertible" tags=["compare"]
keep_two = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
pinv = torch.linalg.pinv(keep_two)
here, there = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([1.0, 2.0, 5.0])

assert torch.linalg.matrix_rank(keep_two) == 2 == len(keep_two)
assert torch.equal(keep_two @ here, keep_two @ there)
print("rank 2, and both", here.tolist(), "and", there.tolist(), "become", (keep_two @ here).tolist())
try:
    torch.linalg.inv(keep_two)
except RuntimeError as error:
    print("inv refuses:", str(error).partition(": ")[2])
    refused = True
assert refused is True
assert (keep_two @ pinv - torch.eye(2)).abs().max() < 1e-6
off = (pinv @ keep_two - torch.eye(3)).abs().max()
assert abs(off - 1) < 1e-6
print(f"forth after back is the identity; back after forth is wrong by {off:.1f}")

# %% [markdown]
# So "it is invertible if its rank equals the number of its rows" is wrong. The matrix must also be square.
#
# ### Small rank, few numbers
#
# What the model needs from all this: a product of a tall matrix and a wide one can never have a larger rank than the
# thin side. Such a product is cheap to store, and much of this course lives on it. LoRA (lesson 13) adapts a model by
# adding one; a head of attention (lesson 02) compares words through one. Here is the head that you have just trained.

# %% name="products_of_small_rank" tags=["compare"]
thin = torch.Generator().manual_seed(0)
lora_b, lora_a = torch.randn(512, 8, generator=thin), torch.randn(8, 512, generator=thin)
product = lora_b @ lora_a
values = torch.linalg.svdvals(product)
tolerance = 512 * torch.finfo(torch.float32).eps * values[0]

assert torch.linalg.matrix_rank(product) == 8 == (values > tolerance).sum() and (values > 0).sum() > 8
print(f"512 x 8 times 8 x 512: a matrix of {product.numel():,} numbers, made of {lora_b.numel() + lora_a.numel():,}; "
      f"rank {torch.linalg.matrix_rank(product)}")

attn, head_dim = model.blocks[0].attn, model.config.head_dim
w_q, w_k = attn.q_proj.weight[:head_dim].double(), attn.k_proj.weight[:head_dim].double()
compare = w_q.T @ w_k  # (D, D): how the first head compares any two words
rank = int(torch.linalg.matrix_rank(compare))
assert rank <= head_dim < model.config.d_model
print(f"the first head compares words of {compare.shape[0]} numbers through a matrix of rank {rank}")

# %% name="singular_values"
figure, (axes,) = plots.new_figure(width=6.4, height=2.8)
number = list(range(1, 25))
lines = {"512 x 8 times 8 x 512": (number, values[:24].clamp(min=1e-9).tolist())}
full = torch.linalg.svdvals(torch.randn(512, 512, generator=thin))
plots.line_chart(axes, {**lines, "a full 512 x 512 matrix": (number, full[:24].tolist())},
                 "The 24 largest singular values", "number", "size", (tolerance.item(), "counted as zero below"))
axes.set(yscale="log", ylim=(1e-5, 1e7))
axes.legend(fontsize=9, frameon=False, loc="upper right")
plots.show(figure, alt="Singular values on a logarithmic scale: those of the product drop to almost nothing after the "
           "eighth, those of the full matrix hardly fall.")

# %% [markdown]
# The rank is the number of **singular values** that are not zero, and on a computer *zero* means: below the rounding
# error. After the eighth there is nothing but rounding left.

# %% [markdown]
# ## 9 · Softmax: from scores to probabilities
#
# The model ends with a score for each word, the **logits**: any numbers, positive or negative. To draw a word we need
# probabilities: positive, and 1 in sum. Softmax takes $e$ to the power of each score and divides by the sum:
#
# $$\mathrm{softmax}(x)_i = \frac{e^{x_i}}{\sum_j e^{x_j}}$$
#
# By hand, for the scores 2, 1, 0: the powers are 7.39, 2.72 and 1, their sum is 11.11, so the probabilities are 0.67,
# 0.24 and 0.09. A score that is larger by 1 is $e \approx 2.7$ times as probable, wherever the scores lie.

# %% name="softmax_in_three_bars"
scores = torch.tensor([2.0, 1.0, 0.0])
powers = scores.exp()
probs = powers / powers.sum()

assert [round(p, 2) for p in probs.tolist()] == [0.67, 0.24, 0.09]
assert [round(p, 2) for p in powers.tolist()] == [7.39, 2.72, 1.0] and abs(powers.sum() - 11.11) < 0.01
figure, panels = plots.new_figure(columns=3, width=8.4, height=2.4)
steps = {"scores": scores, "e to the score": powers, "divided by the sum": probs}
for axes, (title, numbers) in zip(panels, steps.items(), strict=True):
    plots.bar_chart(axes, dict(zip("abc", numbers.tolist(), strict=True)), title, numbers=".2f")
plots.show(figure, alt="Bars: the scores 2, 1, 0; their powers 7.39, 2.72, 1; divided by the sum 0.67, 0.24, 0.09.")

# %% [markdown]
# **Predict.** Add the same number $c$ to all three scores. On paper the probabilities stay as they are, since $e^c$
# cancels. What does the computer say for $c = 100$? For $c = -200$?

# %% name="softmax_falls_off_both_ends"
shift = torch.arange(-200.0, 201.0)
shifted = scores + shift[:, None]  # (401, 3): broadcasting again
naive = shifted.exp() / shifted.exp().sum(-1, keepdim=True)
works = naive[:, 0].isfinite()

assert not works[shift == 100] and not works[shift == -200] and works[shift == 0]
print(f"the formula as it stands works from c = {shift[works].min():.0f} to c = {shift[works].max():.0f}, else NaN")
print(f"exp(88) = {torch.tensor(88.0).exp():.1e}, exp(89) = {torch.tensor(89.0).exp()}")

figure, (axes,) = plots.new_figure(width=6.4, height=2.6)
axes.axvspan(-200, shift[works].min(), color=plots.PALE)
axes.axvspan(shift[works].max(), 200, color=plots.PALE)
plots.line_chart(axes, {"probability of the best": (shift[works].tolist(), naive[works, 0].tolist())},
                 "Softmax of (2, 1, 0) + c, as the formula stands", "c (grey: NaN)", "")
axes.set(xlim=(-200, 200), ylim=(0, 1.05))
plots.show(figure, alt="The probability stays at 0.67 in the middle, and is missing where c is too large or too small.")

# %% [markdown]
# Above, $e^{x}$ is too large for a float and becomes infinite, and infinity by infinity is NaN, "not a number".
# Below, every power becomes 0, and 0/0 is NaN too; just before that, the probabilities are already rough. Real logits
# do reach such sizes. Your softmax has to be right for them, and the very fact that $c$ cancels is the way out.

# %% exercise="layers.softmax.softmax"

# %% [markdown]
# ### Use it: temperature
#
# Generating divides the logits by a **temperature** before softmax. A common belief is that the model "picks the most
# probable word", another that a high temperature changes what it thinks is best. Measure both on the first word of a
# story, where the model has a real choice.

# %% name="temperature" tags=["compare"]
with torch.no_grad():
    next_logits = model(torch.tensor([[language.tokenizer.bos_id]]))[0, -1]  # the first word of a story

temperatures = (0.5, 1.0, 2.0, 4.0)
best, entropies = [], []
for temperature in temperatures:
    probs = softmax(next_logits / temperature)
    best.append(int(probs.argmax()))
    entropies.append(float(-(probs * probs.clamp(min=1e-30).log()).sum()))

assert len(set(best)) == 1 and entropies == sorted(entropies)
print("the likeliest word is the same at all four temperatures:", len(set(best)) == 1)
print("the spread (entropy) grows with temperature:", entropies == sorted(entropies))

# %% name="temperature_picture"
from minillm.course.scenes.story_pictures import next_word_panel

figure, panels = plots.new_figure(columns=3, width=9.2, height=3.2)
for axes, temperature in zip(panels, (0.5, 1.0, 4.0), strict=True):
    probs = softmax(next_logits / temperature)
    next_word_panel(axes, dict(zip(language.vocabulary, probs.tolist(), strict=True)))
    axes.set_title(f"first word, temperature {temperature:g}", fontsize=10)
plots.show(figure, alt="The likeliest first words at temperatures 0.5, 1 and 4: the higher, the more equal the bars.")

# %% [markdown]
# The order never changes, only how far the favourites stand out. At temperature 1 the model says each word with the
# probability that it has learned. A chat model usually draws; always taking the most probable word is the special
# case of temperature 0.

# %% [markdown]
# ## 10 · Log-softmax: when probabilities are too small
#
# The surprise of a word is $-\ln p$. The obvious way is two steps, softmax and then the logarithm. Now think of a
# word with score 0 beside one with score 200. Its probability is $e^{-200}$, about $10^{-87}$. The smallest positive
# float is about $10^{-45}$.
#
# **Predict.** What do the two steps give for the surprise of that word? And what would a training step do with it?

# %% exercise="layers.softmax.log_softmax"

# %% [markdown]
# ### The popular wrong answer: "taking the logarithm makes it stable"

# %% name="log_after_softmax_comes_too_late" tags=["compare"]
def surprise_and_gradient(log_probs):
    z = torch.tensor([0.0, 200.0], requires_grad=True)
    surprise = -log_probs(z)[0]
    surprise.backward()
    return surprise.item(), z.grad.tolist()


two_steps = surprise_and_gradient(lambda z: softmax(z).log())
one_function = surprise_and_gradient(log_softmax)
assert two_steps[0] == math.inf and all(map(math.isnan, two_steps[1]))
assert one_function == (200.0, [-1.0, 1.0])
assert math.exp(-200) < 2.0**-149 and torch.tensor(200.0).exp() == math.inf
print("softmax, then log: surprise", two_steps[0], "gradient", two_steps[1])
print("log_softmax:       surprise", one_function[0], "gradient", one_function[1])

z = torch.tensor([1.0, 2.0, 3.0])
difference = z - log_softmax(z)
assert (difference - 3.4076).abs().max() < 1e-4
print("logits minus log-probabilities, for 1, 2, 3:", [f"{d:.4f}" for d in difference.tolist()])

# %% [markdown]
# The logarithm comes too late: the probability was already rounded to 0. And with a gradient of NaN a training run is
# over, because every number in the model becomes NaN in the next step. What helps is to do both in one function, so
# that the tiny probability is never formed.
#
# The last line clears up two words that are often mixed up. **Logits** are the *inputs* of softmax,
# **log-probabilities** the logarithm of its outputs. In each row they differ by one constant.
#
# ### Use it: the number that you watched
#
# The left curve of section 2 was a mean of surprises. Now compute it with your own function, on stories that the
# model has never seen.

# %% name="the_loss_by_hand" tags=["compare"]
from minillm.inference.evaluate import story_nats
from minillm.text.batches import shift_rows
from minillm.text.stories.split import validation_rows

token_ids, targets = shift_rows(validation_rows(language, 512, seed=0), language.tokenizer.pad_id)
with torch.no_grad():
    log_probs = log_softmax(model(token_ids).float())  # (B, T, V)
counted = targets >= 0  # the rest is padding
of_the_next_word = log_probs.gather(-1, targets.clamp(min=0)[..., None])[..., 0]  # (B, T)
by_hand = -of_the_next_word[counted].sum().item() / len(targets)

assert abs(by_hand - story_nats(model, language, 512, seed=0)) < 1e-3 * by_hand
assert by_hand > 0.97 * floor
print("as the course measures it:", abs(by_hand - story_nats(model, language, 512, seed=0)) < 1e-3 * by_hand)
print("not below the floor (but by chance):", by_hand > 0.97 * floor)

# %% [markdown]
# ## 11 · Your code becomes the model
#
# What you pass is kept. Inside `with mine.active():` your functions take the place of the course's own in the whole
# package: the masks are made by your `broadcast_pairwise`, attention and drawing use your `softmax`, the loss your
# `log_softmax`. Let the model tell a story with them, measure its loss, and see whose code ran and how often.

# %% name="whose_code_ran"
from minillm.course import mine
from minillm.layers import loss

with mine.active():
    story = tell_on(model, language, "Mia and her", seed=3)
    with torch.no_grad():
        by_your_code = loss.cross_entropy(model(token_ids), targets).item()
with torch.no_grad():
    by_the_course = loss.cross_entropy(model(token_ids), targets).item()

assert abs(by_your_code - by_the_course) < 1e-4
print(story)
print(f"loss {by_your_code:.4f} nats a word; by the course's code {by_the_course:.4f}", end="\n\n")
print(mine.table())

# %% [markdown]
# Solve the rest, run this cell again, and the column says *yours*. In lesson 07 a whole GPT is trained that way.

# %% name="how_far_am_i"
progress()

# %% [markdown]
# ### Where things are kept
#
# | | |
# |---|---|
# | `my/` | your copies of the lessons, opened by `make lab`; the course never writes over them |
# | `my/.minillm/` | what you passed, a small file a function, and your progress |
# | `notebooks/`, `solutions/` | the lessons as they come, blank and solved |
# | `minillm/` | the package that you are writing along with; `minillm/layers/softmax.py` is the file behind section 9 |
#
# A lesson that has become newer is put beside your copy, never over it, and what you passed is carried along.

# %% [markdown]
# ## 12 · Interview corner
#
# Questions that are really asked, with an answer for half a minute, one in full, and what is wrong with the popular
# answer. Say yours aloud first, then unfold.

# %% [markdown] interview="00"

# %% [markdown]
# ## Remember
#
# - A language model is a function from the words so far to probabilities of the next. Its loss is the mean surprise,
#   in nats, and it cannot fall below the entropy of the language.
# - Shapes are matched flush right, and only a size of 1 is stretched. Print shapes: the dangerous mistakes are
#   silent.
# - Take the largest score away before `exp`, and never take the logarithm of a softmax: use log-softmax.
#
# **Where next.** [Lesson 02, attention](02_attention.ipynb): how it looks back. Or [lesson 07, the tiny
# GPT](07_tiny_gpt.ipynb), if you want the whole machine first.
