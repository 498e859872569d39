# %% [markdown]
# # 01 Tokens and data
#
# Before a model can learn anything, somebody has decided two things: into which pieces a text is cut, and which texts
# there are. Both decisions are made once and can hardly be taken back. In this lesson you build the pieces (byte pair
# encoding, from the two functions at its heart), the batches, and the tools that clean a heap of text: near-duplicates,
# personal data, mixtures. And you measure what each of them is worth.
#
# | | |
# |---|---|
# | **You will build** | `count_pairs`, `merge_pair`, `bpe_encode`, `decode_pieces`, `next_token_batch`, |
# | | `minhash_signature`, `lsh_candidates`, `mixture_shares` |
# | **You need** | lesson 00 (broadcasting; nats; the story language) |
# | **Time** | about an hour and a half for the eight exercises, an hour and a half for the rest |
# | **Runs on** | any CPU with 2 GB; all cells together less than a minute, most of it 15 small training runs |
#
# **Sources.** Sennrich et al. 2016, section 3.2 (BPE); Radford et al. 2019 (GPT-2), section 2.2 (on bytes); Cui et al.
# 2023 (Chinese LLaMA), section 2.1; Bengio et al. 2003, section 2 (a table of vectors, predicting the next word);
# Broder 1997 (MinHash); Leskovec et al., *Mining of Massive Datasets*, section 3.4 (bands); Lee et al. 2022 and
# Hernandez et al. 2022 (duplicates); Conneau and Lample 2019, section 3.1 (mixtures); Muennighoff et al. 2023 (epochs).
#
# An exercise is three cells: the task with folded hints, a cell for your function, and a check that tells you which
# mistake you made. Until yours is right, the lesson goes on with the course's own.

# %% [markdown]
# ## One text, three ways to cut it

# %% name="one_text_three_ways"
import math
import random
from collections import Counter

import torch

from minillm.course import check, hint, mine, plots, reset, solution  # noqa: F401
from minillm.course.scenes.bpe_stepper import segmentation_picture
from minillm.text import bpe, corpora
from minillm.text.bpe import BPETokenizer, split_chunks

torch.set_num_threads(1)  # models as small as those of this lesson gain nothing from a second one
english_bpe = BPETokenizer.from_text(corpora.python_docs(), vocab_size=1024)
text = "the lost café, 你好"
cuts = {
    "characters": [sign.encode() for sign in text],
    "bytes": [bytes([byte]) for byte in text.encode()],
    "BPE, trained on English": [english_bpe.token_bytes[i] for i in english_bpe.encode(text)],
}
assert all(b"".join(tokens).decode() == text for tokens in cuts.values())
assert len(english_bpe.encode("你好")) == 6 and len(english_bpe.encode("the lost")) < 6
plots.show(segmentation_picture(cuts), alt="A sentence cut into characters, into bytes, and into BPE tokens, which are "
           "words and parts of words in English, and single bytes in Chinese")

# %% [markdown]
# Each box is a token; a box with more than one byte is blue. (The open box ␣ is a space. Signs outside of Latin script
# are drawn as their bytes, in hexadecimal.) Each tokenizer has a list of all tokens that it knows, its **vocabulary**,
# and a token's place in that list is its **id**. Ids are all that a model ever sees.
#
# - **Characters**: a small vocabulary, and long texts. What to do with a character that is not in the list?
# - **Bytes**: 256 tokens, and nothing can ever be unknown. The texts are longer still.
# - **Byte pair encoding** (BPE): begins with bytes, and joins what often stands together. English words become one or
#   a few tokens. But look at the right end: two Chinese characters cost six, one for each of their bytes.
#
# ## BPE by hand
#
# The algorithm is one sentence: *find the most frequent pair of neighbours, make it a new token, and begin again.*
# Take the word banana.

# %% name="banana_by_hand" tags=["compare"]
word = ["b", "a", "n", "a", "n", "a"]
pairs = Counter(zip(word, word[1:], strict=False))
print("pairs:", {left + right: count for (left, right), count in pairs.items()})

best = min(pairs, key=lambda pair: (-pairs[pair], pair))
print("an and na are equally frequent; by convention the smaller pair wins:", "".join(best))

merged = ["b", "an", "an", "a"]
again = Counter(zip(merged, merged[1:], strict=False))
print("6 tokens have become", len(merged), "-", " ".join(merged))
print("pairs now:", {left + "+" + right: count for (left, right), count in again.items()}, "- no pair occurs twice")
assert best == ("a", "n") and max(again.values()) == 1

# %% [markdown]
# That is all of it. Two functions do the work: one counts, one merges. Write them for lists of ids.

# %% exercise="text.bpe.count_pairs"

# %% exercise="text.bpe.merge_pair"

# %% [markdown]
# **Predict.** Here is a rhyme: *the hotter the pot, the hotter the hot pot; a pot is not hot when the potter is not.*
# Which two letters are merged first? And which will be the first token of three letters? (A space counts as a letter.)

# %%
first_pair, first_triple = None, None  # such as "en", "and"

# %% [markdown]
# Now your two functions train a tokenizer. One thing is added: the text is first cut into *chunks* (words with the
# space before them, numbers, punctuation), and no token crosses the edge of a chunk. Otherwise the vocabulary would
# fill with things like `dog.` and `dog,` and `dog!`.

# %% name="your_own_bpe" tags=["compare"]
def learn_merges(text, n_merges):
    """Byte pair encoding in full: count, take the best, merge, again."""
    chunks = [list(chunk.encode()) for chunk in split_chunks(text)]
    learned = {}
    for new_id in range(256, 256 + n_merges):
        counts = Counter()
        for chunk in chunks:
            counts.update(count_pairs(chunk))
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        if counts[best] < 2:
            break
        learned[best] = new_id
        chunks = [merge_pair(chunk, best, new_id) for chunk in chunks]
    return learned


rhyme = "the hotter the pot, the hotter the hot pot; a pot is not hot when the potter is not"
merges = learn_merges(rhyme, 12)
assert merges == bpe.train_bpe(rhyme, 12), "the package's trainer, which counts only what changes, finds the same"
tokens = [token.decode() for token in BPETokenizer(merges).token_bytes[256:]]
print("learned, in this order:", tokens)
print("first of three:", next(token for token in tokens if len(token) == 3), f"- you said {first_pair}, {first_triple}")

# %% [markdown]
# The English tokenizer at the top was trained in the same way, on the documentation that comes with Python. What it has
# learned says much about its text.

# %% name="what_it_learned"
learned = [token.decode(errors="replace") for token in english_bpe.token_bytes[256:]]
print(english_bpe.vocab_size, "tokens: 256 bytes and", len(learned), "merges")
print("first: ", learned[:14])
print("last:  ", learned[-10:])
print("longest:", sorted(learned, key=len)[-6:])
assert " the" in learned and max(map(len, learned)) >= 8

# %% [markdown]
# ## Encoding: repeat what training did
#
# Now somebody comes with a new text. Which merges apply? The rule is strict: of all merges that fit, the one that was
# *learned first*, wherever it stands; then again.

# %% exercise="text.bpe.bpe_encode"

# %% [markdown]
# Does the order matter? One could take the leftmost pair that fits, which is simpler. The result would still decode to
# the same text.
#
# **Predict.** How many more tokens, in per cent, does the leftmost-first encoder need for English documentation?

# %%
guess_more = None  # per cent

# %% name="the_order_of_training"
def encode_leftmost(ids, merges):
    """What one would write without thinking: merge the first pair that fits."""
    ids = list(ids)
    while fitting := [pair for pair in zip(ids, ids[1:], strict=False) if pair in merges]:
        i = next(i for i in range(len(ids)) if (ids[i], ids[i + 1]) == fitting[0])
        ids[i : i + 2] = [merges[fitting[0]]]
    return ids


sample = Counter(split_chunks(corpora.python_docs()[-40_000:]))
n_right = sum(count * len(bpe_encode(chunk.encode(), english_bpe.merges)) for chunk, count in sample.items())
n_left = sum(count * len(encode_leftmost(chunk.encode(), english_bpe.merges)) for chunk, count in sample.items())
more = n_left / n_right - 1
assert more > 0.1
print(f"learned first: {n_right:,} tokens; leftmost first: {n_left:,}, {more:.0%} more - you said {guess_more}")

# %% [markdown]
# And worse than the length: the model was trained on the other cut. It would meet familiar words in pieces that it has
# hardly ever seen side by side. An encoder is right only if it repeats the decisions of training, in their order.

# %% [markdown]
# ## Nothing is unknown: bytes
#
# UTF-8 writes every character as one to four bytes, and every byte is a token. So a byte-level tokenizer can cut any
# text, and put it together again, exactly. A character tokenizer cannot.

# %% name="nothing_is_unknown" tags=["compare"]
from minillm.text.byte_tokenizer import ByteTokenizer
from minillm.text.characters import CharTokenizer

for sign in "aé你💡":
    print(f"{sign}  U+{ord(sign):05X}  {len(sign.encode())} bytes: {sign.encode().hex(' ').upper()}")

strange = ["你好，世界", "naïve café", "𝄞 and 💡", "\t\n  x", "", "Ωμέγα", "ภาษาไทย"]
for tokenizer in (ByteTokenizer(), english_bpe, BPETokenizer(merges)):
    assert all(tokenizer.decode(tokenizer.encode(text)) == text for text in strange)
print(f"{len(strange)} strange texts: bytes and both BPE tokenizers give all of them back exactly")
try:
    CharTokenizer.from_text(rhyme).encode("the kettle is hot")
except ValueError as error:
    print("characters of the rhyme:", str(error)[:96], "...")

# %% [markdown]
# Vocabularies that begin with characters, as SentencePiece builds them, reach the same end by **byte fallback**: 256
# tokens stand by for the bytes, and a character that is not in the vocabulary is spelled with them. LLaMA does that.
#
# ### Find the bug
#
# Byte tokens have a price that many chat programs have paid.

# %% exercise="text.streaming.decode_pieces"

# %% name="a_chinese_answer_arrives" tags=["compare"]
answer = "你好，我是一个小模型。"
pieces = [bytes([byte]) for byte in answer.encode()]
token_by_token = "".join(piece.decode("utf-8", errors="replace") for piece in pieces)
shown = decode_pieces(pieces)
print(f"{len(answer)} characters in {len(pieces)} tokens")
print(f"each token by itself: {token_by_token.count(chr(0xFFFD))} diamonds, {len(set(token_by_token)) - 1} characters")
print("bytes kept until they are a character:", "|".join(shown))
assert "".join(shown) == answer and set(token_by_token) == {chr(0xFFFD)}

# %% [markdown]
# ## What a Chinese character costs
#
# Why is LLaMA weak in Chinese? One half of the answer is the training text. The other half you can measure now. You
# need texts that say the same in two languages. The course has a small generator of such sentences, and a page of prose
# that was written twice.

# %% name="the_same_in_two_languages" tags=["compare"]
from minillm.text.bilingual import PAGE, bilingual_sentences

seen_pairs = bilingual_sentences(3000, random.Random(0))  # to train tokenizers on
new_pairs = [pair for pair in bilingual_sentences(600, random.Random(1)) if pair not in set(seen_pairs)]
for english, chinese in new_pairs[:3]:
    print(english, chinese)
english_text = " ".join(english for english, _ in new_pairs)
chinese_text = "".join(chinese for _, chinese in new_pairs)
per_character = [len(text.encode()) / len(text) for text in (english_text, chinese_text)]
print(f"bytes a character: English {per_character[0]:.2f}, Chinese {per_character[1]:.2f}")
print(f"characters for the same content: English {len(english_text) / len(chinese_text):.1f} times as many as Chinese")
assert per_character == [1.0, 3.0]

# %% [markdown]
# Chinese needs far fewer characters and three bytes for each, so in *bytes* the two languages are nearly even. Now
# three BPE tokenizers of the same size: one has seen English only, one Chinese only, one both.
#
# **Predict.** How many tokens does a Chinese character cost with each of the three?

# %%
guess_english, guess_chinese, guess_both = None, None, None

# %% name="chinese_costs_more"
seen_chinese = "".join(chinese for _, chinese in seen_pairs)
tokenizers = {
    "English only": english_bpe,
    "Chinese only": BPETokenizer.from_text(seen_chinese, 1024),
    "both": BPETokenizer.from_text(corpora.python_docs()[:150_000] + seen_chinese, 1024),
}
texts = {"English": english_text, "Chinese": chinese_text, "prose, en": PAGE[0], "prose, zh": PAGE[1]}
with mine.active():  # the tokenizers run your bpe_encode now
    used = {name: {kind: len(one.encode(text)) for kind, text in texts.items()} for name, one in tokenizers.items()}
print("tokens a character     " + "".join(f"{kind:>11s}" for kind in texts))
for name, tokens in used.items():
    print(f"BPE trained on {name:12s}", *(f"{tokens[kind] / len(text):9.2f} " for kind, text in texts.items()))
print(f"you said {guess_english}, {guess_chinese}, {guess_both}")
cost = {name: tokens["Chinese"] / len(chinese_text) for name, tokens in used.items()}
assert cost["English only"] > 2 and cost["both"] < 1.2 and cost["Chinese only"] < 1
assert used["Chinese only"]["English"] > 1.5 * used["English only"]["English"], "it works both ways"

# %% name="the_same_page_twice"
bars = {name: tokens["prose, zh"] / tokens["prose, en"] for name, tokens in used.items()}
figure, (left, right) = plots.new_figure(2, width=9.2, height=3.2)
plots.bar_chart(left, cost, "New sentences of the kind that was trained on", "tokens a Chinese character", ".2f")
plots.bar_chart(right, bars, "A page of prose on other things", "Chinese tokens / English tokens", ".2f")
right.axhline(1, color=plots.INK, linewidth=1, linestyle="--")
plots.show(figure, alt="Tokens a Chinese character: three after training on English, well below one after training on "
           "Chinese; and how much longer the Chinese page is than the English one")
assert bars["English only"] > 1.7 > 1.3 > bars["both"]

# %% [markdown]
# A tokenizer that has seen no Chinese spells it byte by byte: three tokens a character. The same page then fills twice
# as much of the context window as in English, costs twice as much to read, and attention has to find its way through
# thirds of characters. The page of prose shows the limit too: our generator knows few characters, the page has
# others, and these fall back to bytes whoever has trained. A tokenizer serves the text that it was trained on.
#
# The remedy is what Chinese-LLaMA did: train a second tokenizer on Chinese, put its merges behind those of the first,
# and give the model new rows in its embedding. The old ids keep their meaning.

# %% name="extend_a_vocabulary"
from minillm.text.vocabulary import join_merges

longer = BPETokenizer(join_merges(english_bpe.merges, tokenizers["Chinese only"].merges))
sentence = new_pairs[1][1]
before, after = len(english_bpe.encode(sentence)), len(longer.encode(sentence))
print(f"{english_bpe.vocab_size} + {longer.vocab_size - english_bpe.vocab_size} = {longer.vocab_size} tokens")
print(f"{sentence}  {len(sentence)} characters: {before} tokens before, {after} after")
assert longer.encode(english_text) == english_bpe.encode(english_text), "English is cut as before"
assert len(longer.encode(chinese_text)) < 0.25 * used["English only"]["Chinese"]

d_model = 64
embedding = torch.randn(english_bpe.vocab_size, d_model, generator=torch.Generator().manual_seed(0))
pieces_of_new = [english_bpe.encode(longer.token_bytes[i].decode("utf-8", "replace")) for i in (1400, 1500)]
new_rows = torch.stack([embedding[pieces].mean(0) for pieces in pieces_of_new])
assert new_rows.shape == (2, d_model)
print("a new row may begin as the mean of the rows that spelled its text until now, and is trained from there")

# %% [markdown]
# ## From ids to vectors
#
# A model cannot calculate with an id: 17 is not "more" than 16. So each id picks a row of a table, the **embedding**.
# It is often drawn as a multiplication of a one-hot vector with a matrix. Both are the same; only one of them
# multiplies by thousands of zeros.

# %% name="a_row_of_a_table" tags=["compare"]
from torch.nn import functional as F

table = torch.randn(1024, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
token_ids = torch.tensor([[5, 900, 5], [77, 5, 900]])
looked_up = table[token_ids]
multiplied = F.one_hot(token_ids, 1024).float() @ table
assert torch.equal(looked_up, multiplied)
print("ids", tuple(token_ids.shape), "-> vectors", tuple(looked_up.shape), "- lookup and one-hot product are equal")

looked_up.square().sum().backward()
touched = table.grad.abs().sum(1).nonzero().flatten().tolist()
assert touched == token_ids.unique().tolist() and len(touched) == 3
print("rows with a gradient:", touched, "of", len(table))
assert torch.equal(looked_up[0, 0], looked_up[1, 1])
print("token 5 has the same vector in both rows, whatever stands around it")

# %% [markdown]
# Two things follow. A row is trained only when its token occurs in the batch: rare tokens learn slowly. And a row is
# *static*: "bank" by the river and "bank" with the money begin as the same vector. Context comes in later, through
# attention.

# %% [markdown]
# ## Batches: what comes next?
#
# The task that a language model is trained on needs no labels: at each position, predict the token that comes next.
# A window of T tokens is T exercises at once.

# %% exercise="text.batches.next_token_batch"

# %% name="a_batch_by_hand" tags=["compare"]
alphabet = torch.arange(26)
letters = "abcdefghijklmnopqrstuvwxyz"
inputs, targets = next_token_batch(alphabet, 6, 3, torch.Generator().manual_seed(4))
for row, wanted in zip(inputs.tolist(), targets.tolist(), strict=True):
    print("input ", " ".join(letters[i] for i in row), "   target", " ".join(letters[i] for i in wanted))
assert torch.equal(targets, inputs + 1) and len({row[0] for row in inputs.tolist()}) == 3

# %% [markdown]
# ### Two numbers that catch bugs
#
# An untrained model gives each of V tokens about the same chance, so its first loss is $\ln V$. And a loss that falls
# to nearly 0 within a few steps is not a triumph: the model can see its answer. The most common way to arrive there is
# a batch without the shift.
#
# **Predict.** Bytes of English, 40 steps of training. What will the loss be with the shift, and without?

# %%
guess_shifted, guess_unshifted = None, None  # nats a byte

# %% name="the_objective"
from dataclasses import replace

from minillm.bench.variants import harness
from minillm.bench.variants.mixture import both_languages
from minillm.config import Init
from minillm.layers import loss
from minillm.model.gpt import GPT
from minillm.training.callbacks import History
from minillm.training.loop import train

config = replace(harness.BASE, vocab_size=256, max_seq_len=64, init=Init(0.02, 0.05, "scaled"))
for seed in range(2):
    generator = torch.Generator().manual_seed(seed)
    ends = []
    for shifted in (False, True):
        model, watch = GPT(config, torch.Generator().manual_seed(seed)), History()
        drawn = (next_token_batch(both_languages("train")[0], 64, 16, generator) for _ in range(40))
        batches = drawn if shifted else ((inputs, inputs) for inputs, _ in drawn)
        train(model, batches, harness.small_recipe(40), steps=40, callbacks=[watch])
        ends.append(watch.steps[-1]["loss"])
    first = watch.steps[0]["loss"]
    assert abs(first / math.log(256) - 1) < 0.05 and ends[0] < 0.2 < 1 < ends[1]
    print(f"seed {seed}: first loss {first:.2f}, ln 256 = {math.log(256):.2f}; "
          f"after 40 steps {ends[1]:.1f} with the shift, {ends[0]:.1f} without")
print(f"you said {guess_shifted} and {guess_unshifted}")

# %% [markdown]
# Fine-tuning on answers (SFT) has the same loss over the same shifted targets. Only the mask is new: what the user
# wrote is read, not learned.

# %% name="the_same_loss_with_a_mask" tags=["compare"]
question, reply = "Who lost the kite?", " Mia did."
row = torch.tensor([list((question + reply).encode())])
inputs, targets = row[:, :-1], row[:, 1:].clone()
masked = targets.masked_fill(torch.arange(targets.shape[1]) < len(question) - 1, -100)
with torch.no_grad():
    logits = model(inputs)
    every_token = F.cross_entropy(logits[0], targets[0], reduction="none")
assert torch.isclose(loss.cross_entropy(logits, targets), every_token.mean())
assert torch.isclose(loss.cross_entropy(logits, masked), every_token[len(question) - 1 :].mean())
n_learned = int((masked != -100).sum())
assert n_learned == len(reply)
print(f"pretraining learns {targets.numel()} of {targets.numel()} targets, fine-tuning the {n_learned} of the reply")
print("the first of them is predicted from the question's last byte:", bytes(masked[masked != -100].tolist()))

# %% [markdown]
# ### How good can it get?
#
# For bytes of English nobody knows. For the story language of lesson 00 we do: its grammar gives the entropy, and no
# model can be cheaper on average. Here are the oldest language models there are: tables that count which word follows
# the last n − 1 words.

# %% name="what_a_short_memory_costs" tags=["compare"]
from minillm.text.stories import StoryLanguage
from minillm.text.stories.split import train_rows, validation_rows

language = StoryLanguage()
pad_id, vocab_size = language.tokenizer.pad_id, language.tokenizer.vocab_size
told, asked = (
    [[i for i in row if i != pad_id] for row in rows.tolist()]
    for rows in (train_rows(language, 4000, torch.Generator().manual_seed(0)), validation_rows(language, 200)))
costs = {}
for n in (1, 2, 3, 4):
    places = [(tuple(story[max(0, t - n + 1) : t]), story[t]) for story in told for t in range(1, len(story))]
    pair_counts, context_counts = Counter(places), Counter(context for context, _ in places)
    costs[n] = 0.0
    for story in asked:
        for t in range(1, len(story)):
            context = tuple(story[max(0, t - n + 1) : t])
            chance = (pair_counts[context, story[t]] + 0.01) / (context_counts[context] + 0.01 * vocab_size)
            costs[n] -= math.log(chance) / len(asked)
    print(f"knows the last {n - 1} words: {costs[n]:6.0f} nats a story")
print(f"the floor (entropy):   {language.entropy():6.1f}")
assert costs[4] > 2 * language.entropy()

# %% [markdown]
# A longer table stops helping: the contexts get rare, and what is still missing (whose kite it was) stands many words
# back. That gap, between the last table and the floor, is what attention is for.
#
# ### Nats a token, or bits a byte?
#
# Two models with different tokenizers have losses that cannot be compared: one predicts few large tokens, one many
# small ones. Per *byte of text* they can. Take the simplest model of all, which only knows how frequent each token is.

# %% name="per_token_or_per_byte"
cut = corpora.python_docs()[-100_000:]
kinds = {"characters": CharTokenizer.from_text(cut), "bytes": ByteTokenizer(), "BPE 1024": english_bpe}
measured = {}
for name, tokenizer in kinds.items():
    ids = tokenizer.encode(cut)
    shares = torch.tensor(list(Counter(ids).values()), dtype=torch.float64) / len(ids)
    nats = float(-(shares * shares.log()).sum())
    measured[name] = nats, nats / math.log(2) * len(ids) / len(cut.encode())
    print(f"{name:10s} {nats:.2f} nats a token, {measured[name][1]:.2f} bits a byte")
assert measured["BPE 1024"][0] > measured["bytes"][0] and measured["BPE 1024"][1] < measured["bytes"][1]

# %% [markdown]
# By the first column BPE is the worst, by the second the best. The second is what counts. (Lesson 16 uses it to compare
# real models.)

# %% [markdown]
# ## The same text twice
#
# Text from the web is full of copies: mirrors, quotations, licences, one article with two headlines. Exact copies are
# easy: hash each document, keep the first of each hash. But one changed word, and the hash is another. We need a
# measure of *nearly* the same. Cut both texts into overlapping pieces (**shingles**) and compare the two sets.

# %% name="jaccard_by_hand" tags=["compare"]
from minillm.text import lsh, minhash

one, other = "a red kite", "a red bike"
a, b = minhash.shingles(one, 3), minhash.shingles(other, 3)
print(sorted(a), "and", sorted(b))
print(f"in both {len(a & b)}, in either {len(a | b)}: Jaccard similarity {minhash.jaccard(a, b):.2f}")
assert minhash.jaccard(a, b) == len(a & b) / len(a | b) == 4 / 12

# %% [markdown]
# For a billion documents even the sets are too large to keep. **MinHash** replaces each set by a few numbers. Shuffle
# all possible shingles, and note which one of the set comes first. Do the two sets note the same one? They do if the
# first shingle of their *union* lies in both, and every shingle of the union has the same chance to be first. So
#
# $$P(\text{same first shingle}) = \frac{|A \cap B|}{|A \cup B|} = J(A, B).$$
#
# One shuffle is a coin that comes up with probability J. With k shuffles, count how often it does: the standard error
# is $\sqrt{J(1 - J) / k}$, however large the sets.

# %% exercise="text.minhash.minhash_signature"

# %% [markdown]
# **Predict.** With k = 128, how many of 300 estimates will be within 0.1 of the truth?

# %%
guess_near = None

# %% name="estimate_and_truth" tags=["compare"]
rng, k = random.Random(0), 128
shuffles = minhash.draw_permutations(k, torch.Generator().manual_seed(0))
true, estimated = [], []
for number in range(300):
    n_common = 2 * number // 3
    common = {f"c{rng.random()}" for _ in range(n_common)}
    sets = [common | {f"o{rng.random()}" for _ in range((200 - n_common) // 2)} for _ in range(2)]
    signatures = [minhash_signature(minhash.hash_shingles(one), *shuffles) for one in sets]
    true.append(minhash.jaccard(*sets))
    estimated.append(minhash.estimate_jaccard(*signatures))
errors = torch.tensor(estimated) - torch.tensor(true)
n_near = int((errors.abs() <= 0.1).sum())
inside = [x for x in zip(errors.tolist(), true, strict=True) if abs(x[0]) <= 2 * math.sqrt(x[1] * (1 - x[1]) / k)]
print(f"within 0.1: {n_near} of 300 - you said {guess_near}")
print(f"within two standard errors: {len(inside)} of 300")
assert n_near >= 285 and len(inside) >= 270

# %% name="estimate_picture"
figure, (axes,) = plots.new_figure(width=5.6, height=3.8)
grid = torch.linspace(0, 1, 101)
band = 2 * (grid * (1 - grid) / k).sqrt()
axes.fill_between(grid, grid - band, grid + band, color=plots.PALE, label="truth ± 2 standard errors")
axes.plot(true, estimated, ".", markersize=4, color=plots.COLOURS[0], label="300 pairs of sets")
axes.set(xlabel="true Jaccard similarity", ylabel=f"estimate from {k} numbers", xlim=(-0.02, 1.02))
axes.legend(fontsize=9, frameon=False)
plots.show(figure, alt="Estimates lie along the diagonal, nearly all of them within two standard errors")

# %% [markdown]
# Comparing two texts is cheap now. But a million texts have 500 billion pairs. **Bands** avoid looking at them: cut
# each signature into bands, and let texts meet that agree in one whole band.

# %% exercise="text.lsh.lsh_candidates"

# %% name="the_s_curve"
rows_of = {8: 16, 32: 4, 64: 2}
similarity = torch.linspace(0, 1, 101)
curves = {
    f"{n_bands} bands of {rows}": (similarity, [lsh.meeting_probability(float(s), rows, n_bands) for s in similarity])
    for n_bands, rows in rows_of.items()
}
figure, (axes,) = plots.new_figure(width=7.0, height=3.2)
plots.line_chart(axes, curves, "128 numbers, three ways to cut them", "Jaccard similarity", "probability to meet")
axes.legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
plots.show(figure, alt="Three S-shaped curves: many thin bands let texts meet early, few thick ones late")

# Do random signatures that agree with probability s really meet that often?
generator = torch.Generator().manual_seed(0)
for s in (0.3, 0.5, 0.7):
    met = 0
    for _ in range(300):
        first = torch.randint(10**9, (128,), generator=generator)
        second = torch.where(torch.rand(128, generator=generator) < s, first, first + 1)
        met += (0, 1) in lsh_candidates(torch.stack([first, second]), 32)
    assert abs(met / 300 - lsh.meeting_probability(s, 4, 32)) < 0.1

# %% [markdown]
# An S-curve is a soft threshold: strangers almost never meet, near-copies almost always, and the number of bands moves
# the step. Now plant duplicates and look for them. 300 documents of the bilingual generator, and copies of 90 of them
# in which four words have been changed.

# %% name="planted_duplicates" tags=["compare"]
from minillm.text.bilingual import bilingual_documents

rng = random.Random(5)
documents = [english for english, _ in bilingual_documents(300, rng)]
planted = set()
for original in rng.sample(range(300), 90):
    words = documents[original].split(" ")
    for place in rng.sample(range(len(words)), 4):
        words[place] = rng.choice(("really", "perhaps", "one", "indeed"))
    planted.add((original, len(documents)))
    documents.append(" ".join(words))

with mine.active():
    found = lsh.near_duplicates(documents, 0.6, torch.Generator().manual_seed(0), n_bands=32)
precision, recall = len(planted & set(found)) / len(found), len(planted & set(found)) / len(planted)
n_exact = len(documents) - len(set(documents))
kept = lsh.first_of_each(len(documents), list(found))
print(f"equal to the last letter: {n_exact} of {len(planted)} copies found")
print(f"MinHash and bands: {len(found)} pairs found; precision {precision:.0%}, recall {recall:.0%}")
print(f"{len(documents)} documents, {len(kept)} kept")
assert n_exact == 0 and precision > 0.95 and recall > 0.95

# %% [markdown]
# ## What duplicates do: a myth and a measurement
#
# A sentence from interview notes: *repeated tokens in the training data increase the computation and the number of
# parameters.* Let us see. Two runs of the same small model, of the same number of steps with 32 stories each. One reads
# fresh stories all the time, the other reads the same 8 stories again and again.
#
# **Predict.** The floor of the story language is 22.7 nats a story. Where will the repeated 8 end? And new stories,
# with that model?

# %%
guess_seen, guess_new = None, None  # nats a story

# %% name="fresh_or_repeated"
from minillm.bench.variants import duplication

floor = language.entropy()
runs = {
    name: [duplication.measure_pool(n_stories, seed, steps=50) for seed in range(3)]
    for name, n_stories in (("fresh stories", None), ("8 stories, repeated", 8))
}
for name, measures in runs.items():
    seen, new = ([round(one[kind], 1) for one in measures] for kind in ("seen", "new"))
    print(f"{name:20s} stories of its training {seen}, new ones {new} nats (three seeds)")
print(f"the floor            {floor:.1f} - you said {guess_seen} and {guess_new}")
for fresh, repeated in zip(*runs.values(), strict=True):
    assert repeated["seen"] < floor < fresh["seen"], "below the entropy: only by heart"
    assert repeated["new"] > fresh["new"] + 20
    assert repeated["copied"] > 0.2 and fresh["copied"] == 0

# %% [markdown]
# No model that *knows the language* can be cheaper than the floor. This one is, on its 8 stories: it knows them by
# heart. On new stories it is worse than a model that has learned little, because it is sure of the wrong things.
#
# And the myth?

# %% name="what_repetition_does_not_change" tags=["compare"]
from minillm.model import counting

small = duplication.story_model(0).config
parameters = {measure["parameters"] for measures in runs.values() for measure in measures}
tokens_a_step = duplication.BATCH_SIZE * (language.max_len - 1)
flops = counting.flops_per_token(small, language.max_len)
print(f"parameters in all six runs: {parameters.pop():,}")
print(f"a step works on {tokens_a_step:,} positions at {sum(flops.values()):,.0f} operations, whatever stands there")
assert not parameters
by_heart = {name: sum(one["copied"] for one in measures) / 3 for name, measures in runs.items()}
print("goes on with its training stories word for word:",
      {name: "often" if share > 0.2 else "never" for name, share in by_heart.items()})
assert by_heart["fresh stories"] == 0

# %% [markdown]
# Parameters are fixed by the configuration, and a step costs what its tokens cost, repeated or not. What repetition
# changes is what is *learned*: less of the language, more of these texts, down to the wording. That is why
# de-duplication lowers what a model can be made to recite (Lee et al. 2022; Carlini et al. 2023). A few readings are
# nearly as good as fresh text, up to about four (Muennighoff et al. 2023); the table below, from longer runs, shows the
# way from three readings to four hundred.

# %% name="the_longer_table" tags=["compare"]
from statistics import median

from minillm.bench import results

stored = results.load_table("duplication")
print(stored["command"], "-", len(stored["seeds"]), "seeds,", stored["machine"])
print(f"{'':16s}{'read':>8s}{'seen':>10s}{'new':>10s}{'copied':>9s}   (times; nats a story; share; medians)")
for row in stored["rows"]:
    middle = {name: median(values) for name, values in row["values"].items()}
    print(f"{row['name']:16s}{middle['times each was read']:8.0f}{middle['seen']:10.1f}{middle['new']:10.1f}"
          f"{middle['copied']:9.2f}")
new = {row["name"]: sorted(row["values"]["new"]) for row in stored["rows"]}
assert abs(new["4096 stories"][1] - new["fresh stories"][1]) < 0.5, "three readings: as good as fresh, by the median"
assert new["1024 stories"][-1] < 24 and new["256 stories"][0] > 40 and new["32 stories"][0] > 150

# %% name="the_longer_picture"
repeated = [row["values"] for row in stored["rows"] if row["name"] != "fresh stories"]
times = [values["times each was read"][0] for values in repeated]
curves = {
    name: (times, [median(values[kind]) for values in repeated])
    for kind, name in (("seen", "stories that it has read"), ("new", "new stories"))
}
figure, (axes,) = plots.new_figure(width=6.0, height=3.4)
plots.line_chart(axes, curves, "The same number of steps, ever fewer stories", "times each was read",
                 "nats a story", (floor, "floor: the language's entropy"))
axes.set_xscale("log")
axes.set_xticks(times, [f"{number:.0f}" for number in times])
axes.minorticks_off()
plots.show(figure, alt="The more often each story was read, the cheaper it gets, far below the floor, and the dearer "
           "new stories get, far above it")

# %% [markdown]
# Three readings cost nothing here, twelve cost half a nat, fifty twice the surprise. In between lies the point where
# the model turns from the rule to the wording: at 1024 stories it is already below the floor on what it has read.

# %% [markdown]
# ## Personal data
#
# Whatever a model reads it may one day write. So e-mail addresses, phone numbers and the like are taken out before
# training. Patterns are the usual first tool. How good are they? To measure that one needs texts whose personal data is
# *known*: the course makes some up, in two languages, with forms that are hard on purpose.

# %% name="scrub_a_text" tags=["compare"]
from minillm.text.personal import personal_text
from minillm.text.scrubbing import find_personal_data, precision_and_recall, scrub

text, known = personal_text(3000, random.Random(0))
found = find_personal_data(text)
print(scrub(text[: text.find("\n", 500)], [one for one in found if one.end <= 500]))

# %% [markdown]
# Look closely before you go on: what was missed, and what was taken that should have stayed?

# %% name="precision_and_recall_of_patterns" tags=["compare"]
def is_plain(span):
    """Whether personal data is written in the usual form: with an @, or with digits; names have no usual form."""
    value = text[span.start : span.end]
    return any(sign in "@0123456789" for sign in value) and " at " not in value


print(f"{'':10s}{'there':>7s}{'found':>7s}{'precision':>11s}{'recall: all':>13s}{'usual form':>12s}")
recall_of = {}
for kind in ("email", "phone", "identity", "card", "address", "name"):
    there, got = ([span for span in spans if span.kind == kind] for spans in (known, found))
    precision, recall = precision_and_recall(got, there)
    plain = [span for span in there if is_plain(span)]
    recall_of[kind] = precision_and_recall(got, plain)[1] if plain else 0.0
    right = f"{precision:11.1%}" if got else f"{'-':>11s}"
    usual = f"{recall_of[kind]:12.1%}" if plain else f"{'-':>12s}"
    print(f"{kind:10s}{len(there):7d}{len(got):7d}{right}{recall:13.1%}{usual}")
assert all(recall_of[kind] == 1 for kind in recall_of if kind != "name") and recall_of["name"] == 0
precision, recall = precision_and_recall(found, known)
assert 0.85 < precision < 1 and 0.5 < recall < 0.8
print(f"together: precision {precision:.1%}, recall {recall:.1%}")

# %% [markdown]
# In the usual form a pattern finds everything; check digits keep most order numbers from being taken for cards. But:
#
# - *mia at example dot com* and *一三八…* are found never. Whoever hides an address from machines hides it from ours.
# - A version number of four parts looks like a computer's address. No pattern can tell; the words around it can.
# - **Names have no form.** That takes a model for named entities, with errors of its own.
#
# So a recall of "100 %" always means: of the forms that somebody thought of. The order of a real pipeline: get the text
# out of the page, find its language, filter by quality, remove exact and near-duplicates, scrub, and remove whatever
# stands in the test sets.

# %% [markdown]
# ## Mixtures
#
# A corpus is a mixture, and the shares are somebody's choice. In proportion to size, a small language drowns. Equal
# shares read it over and over. The usual compromise is a power of the size.

# %% exercise="text.mixture.mixture_shares"

# %% name="shares_and_epochs" tags=["compare"]
token_counts = {"English": 900e9, "Chinese": 90e9, "Swahili": 1e9}
budget = 1000e9  # tokens that the model will read
print("exponent" + "".join(f"{name:>22s}" for name in token_counts))
for exponent in (1.0, 0.7, 0.3, 0.0):
    shares = mixture_shares([int(count) for count in token_counts.values()], exponent)
    epochs = [share * budget / count for share, count in zip(shares.tolist(), token_counts.values(), strict=True)]
    cells = [f"{share:7.1%} {times:6.1f} times" for share, times in zip(shares.tolist(), epochs, strict=True)]
    print(f"{exponent:8.1f}" + "".join(f"{cell:>22s}" for cell in cells))
    assert abs(shares.sum() - 1) < 1e-12
assert epochs[2] > 300, "equal shares would read the small collection hundreds of times"

# %% [markdown]
# You know now what reading a small collection hundreds of times does. The exponent is chosen between two evils.
#
# **Predict.** A small model reads English and Chinese sentences as bytes, with 10, 50 and 90 per cent of Chinese, the
# same number of windows each time. At which mixture is each language cheapest? And which language suffers more from a
# small share?

# %%
guess_mixture = None

# %% name="two_languages_one_model"
from minillm.bench.variants.mixture import measure_mixture

costs = {share: [measure_mixture(share, seed, steps=30) for seed in range(3)] for share in (0.1, 0.5, 0.9)}
for share, measures in costs.items():
    numbers = [[round(one[name], 2) for one in measures] for name in ("English", "Chinese")]
    print(f"{share:.0%} Chinese: English {numbers[0]}, Chinese {numbers[1]} nats a byte (three seeds)")
print("you said", guess_mixture)
for few, half, most in zip(*costs.values(), strict=True):
    assert few["English"] < half["English"] < most["English"], "each language gets better with its share"
    assert few["Chinese"] > half["Chinese"] > most["Chinese"]

# %% name="the_price_of_a_share"
stored = results.load_table("mixture")
curves = {
    name: ([float(row["name"].split()[0]) for row in stored["rows"]],
           [sum(row["values"][name]) / len(row["values"][name]) for row in stored["rows"]])
    for name in ("English", "Chinese")
}
dropped = [first - second for first, second in zip(curves["Chinese"][1], curves["Chinese"][1][1:], strict=False)]
assert dropped[0] > 5 * dropped[-1] > 0
figure, (axes,) = plots.new_figure(width=5.8, height=3.4)
plots.line_chart(axes, curves, "Longer runs, mean of three seeds", "per cent of Chinese", "nats a byte")
plots.show(figure, alt="English gets dearer and Chinese cheaper as the share of Chinese grows from 10 to 90 per cent")

# %% [markdown]
# Every share is taken from the other language: the budget is one. The curves are flat in the middle and steep at the
# ends: the first shares of a language are worth the most. That is why even models "for English" get a few per cent of
# other languages, and models for Chinese often half English (ChatGLM-6B was trained on about equal parts of both).

# %% [markdown]
# ## Explore
#
# Step through the merges yourself. Things to look for: in the rhyme, when do whole words appear? In the numbers, which
# pairs of digits win, and would you want 12 and 21 to be tokens if you taught a model to add? In Chinese, is the first
# merge a character, or a part of two?

# %% name="explore"
from minillm.course.scenes.bpe_stepper import stepper_controls, stepper_picture
from minillm.course.widgets import Explorer

alt = "The rhyme after six merges: tokens as boxes, and the most frequent pairs as bars"
Explorer(stepper_picture, alt, **stepper_controls())

# %% [markdown]
# Whose code ran in this lesson's last block with `mine.active()`, the search for duplicates? This table says it. Solve
# an exercise, run the lesson again, and the middle column changes.

# %% name="whose_code"
calls = mine.table()
print(calls)
assert len(calls.rows) >= 2

# %% [markdown]
# ## Interview corner
#
# Answer aloud before you unfold. Each answer names the cell that proves it.

# %% [markdown] interview="01"

# %% [markdown]
# ## Remember
#
# 1. BPE: count pairs, merge the most frequent, again; encoding replays the merges in the order learned. On bytes
#    nothing is unknown, and a language that the tokenizer has not seen costs three tokens a character.
# 2. A model trains on "what comes next": first loss ln V; a loss near 0 means that the answer was visible; a loss below
#    the entropy means that the text was learned by heart.
# 3. Data is cleaned by measuring: similarity by MinHash, patterns by precision and recall on known answers, mixtures by
#    the loss of each part.
#
# **Where next.** [Lesson 02](02_attention.ipynb) takes the vectors that came out of the table, and lets them look at
# each other.
