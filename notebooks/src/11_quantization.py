# %% [markdown]
# # 11 Quantization
#
# A language model is a long list of numbers, and to write one word it has to fetch every one of them from memory. That,
# and not the arithmetic, is what you wait for. So it pays to store each number in fewer bits: 16, 8, 4. In this lesson
# you build the formats, find out what each of them costs a real model, and why one number among six hundred can spoil
# the others. Then you measure your own machine, predict how fast it can write, and look at what is left to gain. At the
# end you read a program of 200 lines that gains it.
#
# | | |
# |---|---|
# | **You need** | lesson 02 (the linear layers of attention), lesson 10 (prefill, decoding); helpful: lessons 07, 08 |
# | **Time** | an hour and a half for the six exercises, an hour and a half for the rest |
# | **Runs on** | any CPU with 4 GB; the cells take about a minute, because a real model runs many times |
# | **Weights** | SmolLM2, from `python -m minillm weights`; without them those cells say so and the rest runs |
#
# **Sources.** IEEE 754-2008, section 3.4; Kalamkar et al. 2019 (bf16); Jacob et al. 2018, sections 2.1 and 2.2;
# Dettmers et al. 2022 (LLM.int8()), sections 2 and 3; Dettmers et al. 2023 (QLoRA), section 3; Frantar et al. 2022
# (GPTQ), section 3; Xiao et al. 2022 (SmoothQuant), section 4; Lin et al. 2023 (AWQ), section 3.2; Sun et al. 2024
# (massive activations), section 2; Williams et al. 2009 (roofline); Jouppi et al. 2017 (TPU), section 2.
#
# An exercise is three cells: the task with folded hints, a cell for your function, and a check that tells you which
# mistake you made. Until yours is right, the lesson goes on with the course's own.

# %% [markdown]
# ## One number in bits

# %% name="one_number_in_bits"
import torch
import torch.nn.functional as F

from minillm.course import check, hint, mine, plots, reset, solution  # noqa: F401
from minillm.course.scenes import quantization_pictures as pictures
from minillm.inference.quantization import float_formats

torch.set_num_threads(1)
WIDTHS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
number, fields, notes = torch.tensor(0.1), {}, {}
for name, dtype in WIDTHS.items():
    bits = float_formats.bit_string(number.to(dtype)).split()
    fields[name] = list(zip(("sign", "exponent", "mantissa"), bits, strict=True))
    notes[name] = f"= {number.to(dtype).item():.10f}"
for name, step in (("int8", 1 / 127), ("int4", 1 / 7)):
    code = round(0.1 / step)
    fields[name], notes[name] = [("integer", f"{code:0{int(name[3:])}b}")], f"{code}, times the step {step:.4f}"
plots.show(pictures.bit_boxes(fields, notes), alt="0.1 in fp32, fp16, bf16, int8 and int4: sign, exponent and mantissa "
           "bits, or a whole number; the fewer bits, the further from 0.1")

# %% [markdown]
# Five ways to store 0.1, none of them exact. A float has a **sign**, an **exponent** that says how large the number is,
# and a **mantissa** that says which number of that size. A whole number has neither: somebody must keep a **step** for
# it, and what is stored is how many steps.
#
# ### Read one by hand
#
# The fp16 row above is `0 01011 1001100110`. The exponent's five bits are 11; subtract the **bias** 15, and you have
# 2⁻⁴ = 0.0625. The mantissa's ten bits are 614, of 1024: the number is 1 + 614/1024 = 1.599609 times 0.0625, which is
# 0.09997559. The 1 in front is not stored, because it is always there.

# %% name="read_by_hand" tags=["compare"]
half = torch.tensor(0.1, dtype=torch.float16)
sign, exponent, mantissa = float_formats.split_bits(half)
by_hand = (-1) ** sign.item() * 2.0 ** (exponent.item() - 15) * (1 + mantissa.item() / 1024)
assert by_hand == half.item() == 0.0999755859375 and (exponent.item(), mantissa.item()) == (11, 614)
print(f"exponent {exponent.item()}, mantissa {mantissa.item()}: {by_hand}, as torch says")
for name in WIDTHS:
    kind = float_formats.FORMATS[name]
    print(f"{name}: {kind.exponent_bits} + {kind.mantissa_bits} bits, up to {kind.largest:.3g}, down to "
          f"{kind.smallest:.2g}, after 1 comes 1 + {kind.eps:.2g}")

# %% [markdown]
# fp16 and bf16 have the same 16 bits and spend them differently. **Predict.** What becomes of 70,000 in fp16, and in
# bf16? What of 1.001? And what do you get if you add up 3,000 ones in fp16, one by one?

# %%
guess_70000, guess_1001, guess_3000_ones = ("?", "?"), ("?", "?"), "?"

# %% name="anatomy_of_formats" tags=["compare"]
seen = {}
for name, dtype in WIDTHS.items():
    big, fine = (torch.tensor(value, dtype=dtype).item() for value in (70_000.0, 1.001))
    total = torch.zeros((), dtype=dtype)
    for _ in range(3000):
        total = total + 1
    seen[name] = big, fine, total.item()
    print(f"{name}: 70,000 is {big:g}, 1.001 is {fine:.5f}, 3,000 ones are {total.item():g}")
    kind, info = float_formats.format_of(dtype), torch.finfo(dtype)
    assert (kind.largest, kind.eps, kind.smallest) == (info.max, info.eps, info.smallest_normal * info.eps)
assert seen["fp16"][0] == float("inf") and seen["bf16"][0] == 70_144 and seen["bf16"][1] == 1.0
assert seen["fp16"][2] == 2048 and seen["bf16"][2] == 256
print("you said", guess_70000, guess_1001, guess_3000_ones)

# %% [markdown]
# fp16 has the precision, bf16 the range. Beyond 2,048 fp16 knows even numbers only, so that 2,048 + 1 is 2,048 again;
# in bf16 that happens at 256. That is why sums are kept in float32 whatever is summed (lesson 08 had trouble with this
# in training).
#
# ### Myth and measurement
#
# "FP16 has a smaller data range, so that more operations are executed in the same time", says a popular sheet of
# answers. It tempts because fp16 *is* often faster. But a range executes nothing. Count the work of the same product in
# each format:

# %% name="fewer_bits_same_work" tags=["compare"]
from minillm.course.ledger import MemoryLedger

work = {}
for name, dtype in WIDTHS.items():
    x, weight = torch.ones(4, 512, dtype=dtype), torch.ones(256, 512, dtype=dtype)
    with MemoryLedger() as ledger:
        x @ weight.T
    work[name] = ledger.flops, weight.nbytes
    print(f"{name}: {ledger.flops:,} operations, {weight.nbytes:,} bytes of weights")
assert len({flops for flops, _ in work.values()}) == 1
assert work["fp32"][1] == 2 * work["fp16"][1] == 2 * work["bf16"][1]
assert float_formats.FORMATS["bf16"].largest > 0.99 * float_formats.FORMATS["fp32"].largest

# %% [markdown]
# The same operations, half the bytes. And bf16 has the range of float32 and is no slower for it. What makes 16 bits
# fast is that half as much must be fetched, and hardware that multiplies them: tensor cores, or AMX in a CPU. Where
# that hardware is missing, 16 bits can be *slower* than 32; you will see whether it is so on your machine.

# %% [markdown]
# ## Whole numbers and a step
#
# Four numbers: 0.5, −1.27, 0.3 and 0.02. The largest, in absolute value, is 1.27, and shall become 127. So the step is
# 0.01, and the numbers are stored as 50, −127, 30 and 2. Nothing is lost, because they were chosen so. Now the last
# number be 0.024: it is stored as 2 as well, and comes back as 0.02. This is **absmax** quantization.
#
# With 8 bits that is all. With few bits it matters *where* the steps lie. Six numbers, nearly all of them positive:

# %% name="symmetric_and_zero_point" tags=["compare"]
from minillm.inference.quantization import affine

six = torch.tensor([[-0.3, 0.4, 0.65, 0.97, 1.2, 1.9]])
grids, errors = {}, {}
for name, symmetric in (("symmetric", True), ("zero point", False)):
    codes, scales, zeros = affine.quantize_affine(six, n_bits=4, per="tensor", symmetric=symmetric)
    every = torch.arange(-7, 8) if symmetric else torch.arange(16)
    grids[name] = ((every - zeros.item()) * scales.item()).tolist()
    errors[name] = affine.relative_error(six, affine.restore_affine(codes, scales, zeros))
    print(f"{name:10s} step {scales.item():.3f}, zero is code {zeros.item()}, codes {codes.tolist()[0]}")
assert errors["zero point"] < 0.75 * errors["symmetric"]
plots.show(pictures.rounding_picture(six[0].tolist(), grids), alt="Six numbers above two grids of 4 bits: the "
           "symmetric one spends half of its points below zero, the other covers the numbers twice as densely")

# %% [markdown]
# The symmetric grid has its points on both sides of 0, and half of them are of no use here. With a **zero point** the
# codes are shifted: value = step · (code − zero). Weights lie on both sides of 0, so with 8 bits nobody bothers. With 4
# bits everybody does.
#
# For the rest of the lesson, most formats are the same in two respects: they round to the nearest step, and they store
# the steps in floats beside the whole numbers. They differ in **who shares a step**.

# %% name="who_shares_a_step"
small = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
small[1, 2] = 9.0
plots.show(pictures.sharing_picture(small, 4), alt="A matrix of 4 rows and 8 columns three times: one colour for "
           "all, a colour a row, a colour for each half row; one number, 9.0, is much larger than all others")

# %% [markdown]
# One number is large: 9.0. Shared by all, the step becomes 9/127, and everybody's rounding is coarse. With a step a row
# only the second row suffers, in groups of four only its first half. Write the one in the middle.

# %% exercise="inference.quantization.rows.quantize_rows"

# %% [markdown]
# **Predict.** How far is a number off after rounding? Half a step at most. On average, in the root mean square, a
# uniform error between −½ and ½ of a step: what is that?

# %%
guess_rms_in_steps = None

# %% name="rounding_error_is_uniform" tags=["compare"]
wide = torch.randn(256, 4096, generator=torch.Generator().manual_seed(1))
with mine.active():
    q, scales = quantize_rows(wide)
in_steps = (wide - q * scales) / scales
rms = in_steps.square().mean().sqrt().item()
assert abs(rms * 12**0.5 - 1) < 0.02 and in_steps.abs().max() <= 0.5001
print(f"largest error {in_steps.abs().max():.2f} steps, root mean square {rms:.4f}; 1/sqrt(12) = {12**-0.5:.4f}")
print("you said", guess_rms_in_steps)
per_bit = {}
for n_bits in (8, 7, 6, 5, 4):
    kept = affine.restore_affine(*affine.quantize_affine(wide, n_bits, "row", symmetric=True))
    per_bit[n_bits] = affine.relative_error(wide, kept)
    print(f"{n_bits} bits: {per_bit[n_bits]:.2%} of the weights' size")
assert all(1.9 < per_bit[n - 1] / per_bit[n] < 2.4 for n in (8, 7, 6, 5))

# %% [markdown]
# One bit fewer, about twice the error, which is 6 dB if you come from signal processing. Eight bits leave one per cent,
# four bits more than ten.
#
# ### On weights that were trained
#
# Random weights prove little. Here is a small GPT that reads Python's documentation for a few seconds, with weights in
# float32 from beginning to end. (Keep that in mind. It will matter.)

# %% name="a_model_in_float32"
from dataclasses import replace

from minillm.bench.variants import harness
from minillm.config import Mlp

tiny_config = replace(harness.BASE, d_model=128, head_dim=32, ffn=Mlp(512))
tiny = harness.train_variant(tiny_config, 0, train_len=64, batch_size=16, steps=120)
windows = harness.text_windows("validation", 64, 48)
exact_nats = harness.loss_by_position(tiny, windows).mean().item()
print(f"{exact_nats:.2f} nats a character")
assert exact_nats < 2.3

# %% name="who_shares_and_how_many_bits"
from minillm.course.scenes.swapped_products import block_linears

WAYS = {"per tensor": "tensor", "per row": "row", "groups of 64": 64, "groups of 32": 32}
tiny_weights = {name: part.weight.detach() for name, part in block_linears(tiny).items()}
table = torch.zeros(4, 4)
for i, n_bits in enumerate((8, 6, 4, 3)):
    for j, per in enumerate(WAYS.values()):
        pairs = [(weight, affine.restore_affine(*affine.quantize_affine(weight, n_bits, per)))
                 for weight in tiny_weights.values()]
        table[i, j] = 100 * sum(affine.relative_error(*pair) for pair in pairs) / len(pairs)
figure, (axes,) = plots.new_figure(width=5.2, height=3.6)
plots.heat_map(axes, table, [f"{n} bits" for n in (8, 6, 4, 3)], list(WAYS), "error in % of the weights", numbers=".1f")
plots.show(figure, alt="A table of errors: each bit fewer doubles them, and from left to right, with more steps, they "
           "fall")
assert (table[:, :-1] > table[:, 1:]).all() and table[2, 3] > 8 * table[0, 3] and table[2, 0] > 1.5 * table[2, 3]

# %% [markdown]
# From top to bottom bits are taken away, from left to right steps are added. Steps cost memory too: a group of $g$
# numbers that keeps a step and a lowest value in 16 bits each pays $32/g$ bits a number. Is that better spent than on
# wider codes?

# %% name="what_a_step_costs" tags=["compare"]
for n_bits, n_sharing, what in ((4, 128, "4 bits, rows of 128"), (4, 64, "4 bits, groups of 64"),
                                (4, 32, "4 bits, groups of 32"), (5, 128, "5 bits, rows of 128"),
                                (8, 128, "8 bits, rows of 128")):
    print(f"{what:21s} {affine.bits_per_number(n_bits, n_sharing):5.2f} bits a weight")
assert affine.bits_per_number(4, 32) == affine.bits_per_number(4, 32, 32) == 5.0
assert affine.bits_per_number(4, 64, 16) == 4.25
print("4 bits with nothing but a step in 16 bits, groups of 64:", affine.bits_per_number(4, 64, 16))

# %% [markdown]
# ## Multiply first, then scale
#
# A matrix with a step a row need not be restored before it is used. All numbers of row $r$ share the step $s_r$, so it
# can be taken out of the sum:
#
# $$\sum_c x_c \, (q_{rc} \, s_r) = s_r \sum_c x_c \, q_{rc}$$

# %% exercise="inference.quantization.int8_linear.int8_linear"

# %% [markdown]
# The activations stay floats, only the weights are in 8 bits: that is **weight-only** quantization. Let the small GPT
# compute with your two functions in all its layers.

# %% name="weights_in_eight_bits" tags=["compare"]
from minillm.course.scenes.swapped_products import swapped_products
from minillm.inference.quantization import int8_linear as eight
from minillm.inference.quantization import rows


def in_eight_bits(x, weight):
    return eight.int8_linear(x, *rows.quantize_rows(weight))


with mine.active(), swapped_products(tiny, in_eight_bits):
    eight_nats = harness.loss_by_position(tiny, windows).mean().item()
assert abs(eight_nats - exact_nats) < 0.005
print("the small GPT with all its layers in 8 bits: the same surprise to 0.005 nats a character")
R, C = tiny_weights["0.ffn.up_proj"].shape
print(f"a layer of {R} x {C}: {R:,} products with a step for each token, in place of {R * C:,}")

# %% [markdown]
# For this a kernel turns each whole number into a float *in a register*, just before it is multiplied. Your function
# leaves that to torch, and torch makes a float copy of all whole numbers first. Right, and slow: remember it for later.
#
# ## Four bits
#
# Sixteen codes are few. So one spends them well: in small groups, and from the smallest number of a group to its
# largest, wherever they lie. Value = code · scale + low.

# %% exercise="inference.quantization.int4.int4_groups"

# %% [markdown]
# No computer has numbers of 4 bits, so two share a byte. Here is a whole row on its way into memory and back:

# %% name="two_in_a_byte" tags=["compare"]
from minillm.inference.quantization import int4

with mine.active():
    codes, scales, lows = int4.int4_groups(tiny_weights["0.ffn.up_proj"], 32)
packed = int4.pack_nibbles(codes)
assert torch.equal(int4.unpack_nibbles(packed), codes) and packed.nbytes * 2 == codes.nbytes
byte = int4.pack_nibbles(torch.tensor([[5, 11]], dtype=torch.uint8)).item()
print(f"codes 5 and 11 make the byte {byte} = {byte:08b}: 1011 and 0101")
full = tiny_weights["0.ffn.up_proj"].nbytes
small = packed.nbytes + 2 * (scales.numel() + lows.numel())  # scales and lows in 16 bits
each = 8 * small / codes.numel()
print(f"{full:,} bytes in float32, {small:,} in 4 bits, with the scales: {each:.1f} bits a weight")
assert each == affine.bits_per_number(4, 32) == 5.0

# %% [markdown]
# ### Codes where the weights are
#
# Weights look like draws from a normal distribution: many small ones, few large ones. Steps of equal width waste codes
# on the rare. **NF4** puts its 16 values at quantiles, so that each is used about equally often. Below: 64 weights of
# the small GPT, divided by their largest, above both grids.

# %% name="codes_where_weights_are" tags=["compare"]
from minillm.inference.quantization import nf4

block = tiny_weights["1.attn.v_proj"][0, :64]
block = (block / block.abs().max()).tolist()
levels = nf4.normal_levels()
grids = {"NF4": levels.tolist(), "equal steps": (torch.arange(-7, 8) / 7).tolist()}
plots.show(pictures.rounding_picture(block, grids), alt="64 weights crowd around zero; the values of NF4 crowd there "
           "too, the equal steps do not")
used, kept = {}, {}
for name in ("NF4", "equal steps"):
    shares, error = torch.zeros(16), []
    for weight in tiny_weights.values():
        blocks = weight.view(-1, 64) / weight.view(-1, 64).abs().amax(1, keepdim=True)
        codes = nf4.nearest_level(blocks, torch.tensor(grids[name]))
        shares += codes.flatten().bincount(minlength=16)
        error.append(affine.relative_error(blocks, torch.tensor(grids[name])[codes.long()]))
    used[name] = torch.special.entr(shares / shares.sum()).sum().div(torch.log(torch.tensor(2.0))).item()
    kept[name] = sum(error) / len(error)
    print(f"{name:11s} of 4 bits each code carries {used[name]:.1f}; error {kept[name]:.0%} of the weights' size")
assert used["NF4"] > used["equal steps"] + 0.2 and kept["NF4"] < 0.93 * kept["equal steps"]

# %% [markdown]
# NF4 comes from QLoRA, where a model stays in 4 bits while small matrices beside it are trained; lesson 13 does that.
# Its scales can be quantized in turn (**double quantization**).
#
# **Predict.** Four ways to store the small GPT's weights in about 4 bits: NF4; equal steps about 0; equal steps with a
# lowest value; the last one in groups of 32 and not 64. Which has the smallest error? Which the fewest bits?

# %%
guess_smallest, guess_fewest = "?", "?"

# %% name="four_ways_to_four_bits"
def in_nf4(weight):
    codes, scales = nf4.nf4_quantize(weight)
    twice = nf4.restore_scales(*nf4.double_quantize(scales))
    return nf4.restore_nf4(codes, twice)


ways = {
    "NF4, doubly quantized": (in_nf4, nf4.nf4_bits(double=True)),
    "absmax, groups of 64": (lambda w: affine.restore_affine(*affine.quantize_affine(w, 4, 64, symmetric=True)),
                             affine.bits_per_number(4, 64, 16)),
    "step and low, groups of 64": (lambda w: int4.restore_int4(*int4.int4_groups(w, 64)),
                                   affine.bits_per_number(4, 64)),
    "step and low, groups of 32": (lambda w: int4.restore_int4(*int4.int4_groups(w, 32)),
                                   affine.bits_per_number(4, 32)),
}
four_bits = {}
for name, (way, bits) in ways.items():
    four_bits[name] = sum(affine.relative_error(w, way(w)) for w in tiny_weights.values()) / len(tiny_weights)
    print(f"{name:27s} {bits:.2f} bits a weight, error {four_bits[name]:.1%}")
by_error = sorted(four_bits, key=four_bits.get)
assert by_error[0] == "step and low, groups of 32" and by_error[-1] == "absmax, groups of 64"
assert four_bits["NF4, doubly quantized"] < 0.93 * four_bits["absmax, groups of 64"]
print("you said", guess_smallest, "and", guess_fewest)

# %% [markdown]
# For fewer bits than anything else here, NF4 is clearly better than equal steps about 0. A lowest value a group does as
# well, and pays for it. There is no best format, there are prices.
#
# ## A trap
#
# So far it was the small GPT's weights. Would a real model not be a better judge? Here is one, SmolLM2 with 135 million
# parameters, the model of lesson 16. **Predict** its error at 4 bits in groups of 32, after 8 % on the small GPT.

# %%
guess_error_on_smollm2 = None

# %% name="a_real_model"
from minillm.inference.quantization.convert import stored_bytes
from minillm.pretrained import load

try:
    real, real_tokenizer = load("smollm2", device="cpu")
    print(f"SmolLM2, {stored_bytes(real) / 1e6:.0f} MB in float32")
except ValueError as error:
    real = None
    print(f"Skipped, here and below: all that needs the real model. {error}")

# %% name="a_model_that_was_quantized_before"
if real is not None:
    real_weights = {name: part.weight.detach() for name, part in block_linears(real).items()}
    some = [real_weights[f"{layer}.{part}"] for layer in (0, 12, 29) for part in ("attn.q_proj", "ffn.down_proj")]
    noise = torch.randn(576, 576, generator=torch.Generator().manual_seed(2))
    formats = {"4 bits, groups of 32": lambda w: int4.restore_int4(*int4.int4_groups(w, 32)),
               "4 bits, groups of 64": lambda w: int4.restore_int4(*int4.int4_groups(w, 64)),
               "8 bits a row": lambda w: rows.restore_rows(*rows.quantize_rows(w))}
    trap = {}
    for name, way in formats.items():
        trap[name] = max(affine.relative_error(weight, way(weight)) for weight in some)
        print(f"{name}: SmolLM2 {trap[name]:.2%}, normal noise {affine.relative_error(noise, way(noise)):.2%}")
    assert trap["4 bits, groups of 32"] < 1e-5 < 0.003 < trap["8 bits a row"] < trap["4 bits, groups of 64"]
    values = some[0][0, :32].unique()
    print(f"the first 32 weights of a row have {len(values)} different values; you said {guess_error_on_smollm2}")
    assert len(values) <= 16

# %% [markdown]
# Four bits without any error, and eight bits *with* one! Whoever compares formats on this checkpoint will publish that
# 4 bits beat 8. Look at the last line. Thirty-two float32 weights have at most sixteen different values: somebody has
# quantized this file before, in groups of 32. (Its GGUF type is called Q4_1, after which it was widened to float32.)
# Rounding to the grid on which numbers already lie costs nothing. In groups of 64 the grid is another one, and the
# error is that of any weights.
#
# So ask two questions before you believe a table of quantization errors: what was the format of the weights *before*,
# and what does the table say for weights that never were in that format? From here on, weight errors are measured on
# the small GPT. The real model will tell us about activations, and about speed.

# %% [markdown]
# ## The weight is not what counts
#
# A linear layer is asked for outputs. Two features that always come together, $x_1 = x_2$, have weights 0.4 and 0.4;
# only whole numbers can be stored. Rounding to nearest gives 0 and 0, and the output 0.8 becomes 0. Now round one at a
# time: the first becomes 0, and 0.4 is missing. The second can make up for it, as the features go together: 0.8, which
# is rounded to 1. The output is 1 in place of 0.8, much better, though the second weight is further off than before.
#
# **GPTQ** does that with all columns, one after another; who goes together with whom it learns from $H = X^T X$ of a
# sample text. **AWQ** does something else: features that are large in $X$ get larger weights before rounding, and are
# divided by the same factor.

# %% name="two_that_come_together" tags=["compare"]
from minillm.inference.quantization import awq, gptq, smoothquant

generator = torch.Generator().manual_seed(3)
weight, alone = torch.randn(64, 128, generator=generator), torch.randn(2000, 128, generator=generator)
together = alone @ torch.randn(128, 128, generator=generator) / 128**0.5 + 2 * alone[:, :1]
nearest = int4.restore_int4(*affine.quantize_groups(weight, 3, 32))
shares = {}
for name, x in (("alone", alone), ("together", together)):
    helped = int4.restore_int4(*gptq.gptq_quantize(weight, x, 3, 32))
    off = [affine.relative_error(x @ weight.T, x @ kept.T) for kept in (nearest, helped)]
    shares[name] = off[1] / off[0]
    print(f"features that come {name}: GPTQ leaves {shares[name]:.1f} of the output's error")
assert shares["alone"] > 0.9 > 0.7 > shares["together"]

# %% name="output_and_weight_errors"
from minillm.course.scenes.swapped_products import layer_inputs

learned, tested = (layer_inputs(tiny, harness.text_windows(part, 64, 32)[:, :-1]) for part in ("train", "validation"))
layer, n_bits = "1.attn.q_proj", 3
weight, x = tiny_weights[layer], tested[layer]
by_way = {"nearest": (affine.quantize_groups(weight, n_bits, 32), torch.ones(128)),
          "GPTQ": (gptq.gptq_quantize(weight, learned[layer], n_bits, 32), torch.ones(128))}
*stored, factors = awq.awq_quantize(weight, learned[layer], n_bits, 32)
by_way["AWQ"] = stored, factors
errors = {}
for name, (stored, factors) in by_way.items():
    kept = int4.restore_int4(*stored) / factors
    errors[name] = affine.relative_error(weight, kept), affine.relative_error(x @ weight.T, x @ kept.T)
    print(f"{name:8s} weights off by {errors[name][0]:.1%}, outputs on unseen text by {errors[name][1]:.2%}")
assert errors["GPTQ"][0] > 1.2 * errors["nearest"][0] and errors["GPTQ"][1] < 0.6 * errors["nearest"][1]
assert errors["AWQ"][1] < 1.05 * errors["nearest"][1]

# %% [markdown]
# GPTQ's weights are *further* from the true ones than those that were rounded to nearest, and its outputs are much
# closer, on a text that it has not seen. A table of weight errors would have thrown it out.
#
# AWQ gains little here, because no feature of the small GPT is loud. Make some loud: three features thirty times as
# large, their weights thirty times as small. As a function the layer is the same.

# %% name="three_loud_features"
loud = torch.ones(128)
loud[[10, 50, 90]] = 30.0
weight_loud, learned_loud, x_loud = weight / loud, learned[layer] * loud, x * loud
assert affine.relative_error(x @ weight.T, x_loud @ weight_loud.T) < 1e-5
*stored, factors = awq.awq_quantize(weight_loud, learned_loud, n_bits, 32)
kept = {"nearest": int4.restore_int4(*affine.quantize_groups(weight_loud, n_bits, 32)),
        "GPTQ": int4.restore_int4(*gptq.gptq_quantize(weight_loud, learned_loud, n_bits, 32)),
        "AWQ": int4.restore_int4(*stored) / factors}
off = {name: affine.relative_error(x @ weight.T, x_loud @ kept[name].T) for name in kept}
for name in kept:
    print(f"{name:8s} outputs off by {errors[name][1]:.2%} before, {off[name]:.2%} with three loud features")
assert off["nearest"] > 1.5 * errors["nearest"][1] and off["AWQ"] < 0.7 * off["nearest"]

# %% [markdown]
# Rounded to nearest, the small weights of the loud features drown in the steps of their neighbours. AWQ finds that out
# and scales them up. Are there loud features in real models? That is the question of the next section.

# %% [markdown]
# ## Activations in eight bits
#
# Weight-only quantization saves bytes; the arithmetic stays in floats. When a long prompt is read, or many texts at a
# time, arithmetic is what takes time, and hardware multiplies int8 faster than 16-bit floats. For that both factors
# must be whole numbers: **W8A8**, weights and activations in 8 bits. The activations are rounded as they come, with a
# step a token.
#
# ### Find the bug: a sum that does not fit
#
# Somebody multiplied the whole numbers and cast the result to int32, to be on the safe side. With small numbers it is
# right. In a layer of the small GPT it is not:

# %% name="a_sum_that_does_not_fit" tags=["compare"]
from minillm.inference.quantization import outliers, w8a8


def product_with_a_bug(x_int8, q_weight):
    return (x_int8 @ q_weight.T).to(torch.int32)


print("small numbers:", product_with_a_bug(torch.tensor([[3, 2]]).char(), torch.tensor([[1, -3]]).char()).tolist())
x, weight = tested["0.ffn.up_proj"], tiny_weights["0.ffn.up_proj"]
x_int8, x_scales = rows.quantize_rows(x)
q, scales = rows.quantize_rows(weight)
wrong = affine.relative_error(x @ weight.T, product_with_a_bug(x_int8, q) * x_scales * scales.T)
assert wrong > 0.9
print("a real layer: the error is as large as the output itself, or larger")

# %% exercise="inference.quantization.w8a8.int8_matmul"

# %% name="integers_all_the_way" tags=["compare"]
with mine.active():
    sums = w8a8.int8_matmul(x_int8, q)
    both = w8a8.w8a8_linear(x, q, scales)
assert sums.dtype == torch.int32 and torch.equal(sums.long(), x_int8.long() @ q.long().T)
assert torch.allclose(both, sums * x_scales * scales.T, atol=1e-5)
off = affine.relative_error(x @ weight.T, both)
assert affine.relative_error(x @ weight.T, eight.int8_linear(x, q, scales)) < off < 0.02
print("exact sums in 32 bits, two scales outside of them: weights and activations in 8 bits, within 2 %")

# %% [markdown]
# One step a row of the weights, one a token of the activations: both stand outside of the sum. A step for each
# *feature* of the activations could not be taken out, and that is a pity. Look at what layers of the real model read.

# %% name="what_layers_read"
from minillm.text import corpora

if real is not None:
    passages = corpora.python_docs()[100_000:104_000], corpora.python_docs()[300_000:304_000]
    shown, sample = (torch.tensor(real_tokenizer.encode(text)[:193])[None] for text in passages)
    read, read_elsewhere = layer_inputs(real, shown[:, :-1]), layer_inputs(real, sample[:, :-1])
    x = read["12.attn.q_proj"]
    (loudest,) = x.abs().amax(0).topk(1).indices.tolist()
    share = (x[:, loudest].abs() > 6).double().mean().item()
    print(f"layer 12, attention: feature {loudest} is beyond 6 in {share:.0%} of the tokens; the median feature never "
          f"gets beyond {x.abs().amax(0).median():.1f}")
    assert share > 0.5 and x.abs().amax(0).median() < 1
    plots.show(pictures.outlier_picture(x, [loudest], 6.0), alt="The largest activation of each of 576 features: one "
               "needle beyond 6 among features that mostly stay below 1")

# %% [markdown]
# One feature of 576 is loud, and it is so for nearly every token. Dettmers et al. found the same in every large model
# they looked at: a few features, always the same ones, beyond 6. They call them **outliers**. What does one of them do
# to the rest?

# %% name="one_loud_feature" tags=["compare"]
token = torch.tensor([[0.4, -0.9, 0.2, 60.0, 0.7, -0.1]])
q, step = rows.quantize_rows(token)
without = rows.quantize_rows(token.index_fill(1, torch.tensor([3]), 0.0))
print(f"step {step.item():.3f}, codes {q.tolist()[0]}")
print(f"without the 60: step {without[1].item():.4f}, codes {without[0].tolist()[0]}")
assert q.abs().sum() - 127 <= 5 and without[0].abs().max() == 127

# %% [markdown]
# Beside the 60 everything else is rounded to 0, 1 or 2 steps. Without it, the same numbers have 127 codes to choose
# from. So take the loud columns out of both matrices, multiply them as floats, and add the products. That is the whole
# of LLM.int8().

# %% exercise="inference.quantization.outliers.outlier_split"

# %% [markdown]
# Not all outliers are of that kind. Sun et al. 2024 describe another: **massive activations**, in very few tokens, but
# thousands of times as large as anything else. Find the largest that any layer reads:

# %% name="a_massive_activation"
if real is not None:
    largest = {name: x.abs().max().item() for name, x in read.items()}
    name = max(largest, key=largest.get)
    x = read[name]
    token, feature = divmod(x.abs().argmax().item(), x.shape[1])
    elsewhere = x[1:].abs().max().item()
    print(f"{name}: {largest[name]:.0f}, at token {token}, feature {feature}; in all other tokens the largest is "
          f"{elsewhere:.1f}")
    step = largest[name] / 127
    lost = (x[1:].abs() < step / 2).double().mean().item()
    print(f"with one step for all, that step is {step:.1f}, and {lost:.1%} of what other tokens say is rounded to 0")
    assert token == 0 and largest[name] > 1000 and largest[name] > 50 * elsewhere

# %% name="where_it_happens"
if real is not None:
    figure, (axes,) = plots.new_figure(width=8.4, height=3.0)
    first = {n: read[f"{n}.ffn.down_proj"][0].abs().max().item() for n in range(30)}
    others = {n: read[f"{n}.ffn.down_proj"][1:].abs().max().item() for n in range(30)}
    plots.line_chart(axes, {"first token": (first.keys(), first.values()), "others": (others.keys(), others.values())},
                     "What the down projections read: the largest number", "layer", "largest, absolute")
    axes.set_yscale("log")
    plots.show(figure, alt="The first token's largest number jumps to thousands in layers 11 and 28; that of all other "
               "tokens stays between 1 and about 100")

# %% [markdown]
# It sits on the first token: the attention sink of lesson 10, seen from inside the FFN.
#
# **Predict.** All linear layers of SmolLM2 in W8A8. How much worse does it read? Order these: one step for a whole
# tensor of activations, a step a token, and a step a token with outliers apart.
#
# The measure is the **KL divergence** from the exact model's next-token probabilities, in nats a token: 0 is the same
# model. Beside it stands the perplexity, $e$ to the power of the surprise at the true tokens.

# %%
guess_order = ["?", "?", "?"]

# %%
from minillm.inference.divergence import mean_kl


def quality(logits):
    """KL to the exact model in nats a token, and perplexity on the passage."""
    return mean_kl(exact_logits, logits), F.cross_entropy(logits, shown[0, 1:]).exp().item()


def read_with(product):
    with torch.inference_mode(), swapped_products(real, product):
        return quality(real(shown[:, :-1])[0])



# %% name="outliers_in_a_real_model"
products = {"weights only": in_eight_bits,
            "one step for all": lambda x, w: w8a8.w8a8_linear(x, *rows.quantize_rows(w), per="tensor"),
            "a step a token": lambda x, w: w8a8.w8a8_linear(x, *rows.quantize_rows(w)),
            "outliers apart": outlier_split}
if real is not None:
    with torch.inference_mode():
        exact_logits = real(shown[:, :-1])[0]
    w8a8_kl = {name: read_with(product) for name, product in products.items()}
    for name, (nats, perplexity) in w8a8_kl.items():
        print(f"{name:17s} KL {nats:.4f} nats a token, perplexity {perplexity:.1f}")
    order = sorted(w8a8_kl, key=w8a8_kl.get)
    assert order == ["weights only", "outliers apart", "a step a token", "one step for all"]
    assert w8a8_kl["one step for all"][0] > 5 * w8a8_kl["a step a token"][0]
    print("you said", guess_order)

# %% [markdown]
# One number in one token ruins the whole-tensor version. A step a token confines the damage to that token, and the
# split takes care of the loud features as well.
#
# ### Hand it over to the weights
#
# The split has a price: two products with columns gathered at run time. **SmoothQuant** decides beforehand. Divide
# feature $j$ of the activations by a factor and multiply column $j$ of the weights by it; the product is the same. With
#
# $$\text{factor}_j = \frac{\max |x_j|^{\alpha}}{\max |w_j|^{1 - \alpha}}$$
#
# the loud feature is made quieter and its weights louder, which have room. The factors come from a sample text, and
# since each norm multiplies its features by a weight anyway, the division can be hidden there: nothing is left to do
# at run time.

# %% name="smoothed_by_a_sample"
smoothed_layer = "12.attn.q_proj"
if real is not None:
    x, weight = read[smoothed_layer], real_weights[smoothed_layer]
    factors = smoothquant.smooth_factors(read_elsewhere[smoothed_layer], weight, 0.5)
    x_smooth, weight_smooth = smoothquant.smooth(x, weight, factors)
    assert affine.relative_error(x @ weight.T, x_smooth @ weight_smooth.T) < 1e-4
    off = {"as it is": w8a8.w8a8_linear(x, *rows.quantize_rows(weight)),
           "outliers apart": outlier_split(x, weight),
           "smoothed": w8a8.w8a8_linear(x_smooth, *rows.quantize_rows(weight_smooth))}
    off = {name: affine.relative_error(x @ weight.T, out) for name, out in off.items()}
    for name, error in off.items():
        print(f"{smoothed_layer} in W8A8, {name:15s} output off by {error:.2%}")
    assert off["smoothed"] < 0.5 * off["as it is"] and off["outliers apart"] < 0.5 * off["as it is"]
    figure, panels = plots.new_figure(2, width=9.6, height=2.6)
    for axes, (name, reach) in zip(panels, {"activations": (x, x_smooth), "weights": (weight, weight_smooth)}.items(),
                                   strict=True):
        lines = {when: (range(576), part.abs().amax(0).tolist()) for when, part in zip(("before", "after"), reach,
                                                                                        strict=True)}
        plots.line_chart(axes, lines, name, "feature", "largest, absolute")
    plots.show(figure, alt="Before, one feature of the activations stands out; after, activations are level and the "
               "weights have a few higher columns")

# %% [markdown]
# In a model one chooses a single number, $\alpha$, for all layers. Factors from one passage, quality on another:

# %% name="smoothquant_in_the_model"
if real is not None:
    reach = {part.weight.data_ptr(): read_elsewhere[name].abs().amax(0, keepdim=True)
             for name, part in block_linears(real).items()}

    def smoothed_by(alpha, per):
        def product(x, weight):
            factors = smoothquant.smooth_factors(reach[weight.data_ptr()], weight, alpha)
            x_smooth, weight_smooth = smoothquant.smooth(x, weight, factors)
            return w8a8.w8a8_linear(x_smooth, *rows.quantize_rows(weight_smooth), per=per)
        return product

    for per in ("tensor", "token"):
        unsmoothed = w8a8_kl["one step for all" if per == "tensor" else "a step a token"][0]
        alpha = 0.7 if per == "tensor" else 0.5
        nats, _ = read_with(smoothed_by(alpha, per))
        print(f"a step a {per}: KL {unsmoothed:.4f} as it is, {nats:.4f} smoothed with alpha {alpha}")
        assert nats < 0.6 * unsmoothed

# %% [markdown]
# ## The whole model
#
# Now the question that a user has: what do I lose? The same passage through SmolLM2 in every format that `load` knows,
# and with a cache in 8 bits, which you met in lesson 10.

# %% name="quality_of_every_format"
from copy import deepcopy

from minillm.inference.caches import int8 as int8_cache
from minillm.inference.quantization import convert

formats = {}
if real is not None:
    formats = {"fp32": real, "bf16": deepcopy(real).to(torch.bfloat16)}
    for name in ("int8", "int4"):
        formats[name] = convert.quantize_model(real, name, torch.bfloat16)  # as load(..., weights=name) does
    costs = {}
    with torch.inference_mode():
        for name, model in formats.items():
            costs[name] = quality(model(shown[:, :-1])[0].float())
        costs["fp32, int8 cache"] = quality(real(shown[:, :-1], cache=int8_cache.int8_caches(real, 1, 192))[0])
    for name, (nats, perplexity) in costs.items():
        size = stored_bytes(formats[name.partition(",")[0]]) / 1e6
        print(f"{name:17s} {size:4.0f} MB   KL {nats:.4f} nats a token   perplexity {perplexity:.2f}")
    assert costs["fp32"][0] == 0 and max(costs["bf16"][0], costs["int8"][0]) < 0.03 and costs["int4"][0] < 0.05
    assert costs["fp32, int8 cache"][0] < 0.03
    assert stored_bytes(formats["int4"]) < 0.75 * stored_bytes(formats["int8"]) < 0.2 * stored_bytes(real)

# %% [markdown]
# Two things are worth a second look. A format may have a *lower* perplexity than the exact model. That is no
# improvement: rounding moves the probability of each true token a little up or a little down, and on a short text the
# ups may win. KL compares all probabilities, and is never below 0. So judge a format by KL to the model that it came
# from, and use perplexity to compare models.
#
# And int4 is so good *because of the trap*: its blocks are exact here, and what it loses comes from the head in 8 bits.
# Take the grid away by groups of another size, and you see what 4 bits cost a model that was not quantized before:

# %% name="four_bits_off_the_grid"
if real is not None:
    off_grid = read_with(lambda x, w: x @ int4.restore_int4(*int4.int4_groups(w, 64)).T)
    print(f"int4 in groups of 64, rounded to nearest: KL {off_grid[0]:.2f} nats a token, perplexity {off_grid[1]:.1f}")
    assert off_grid[0] > 5 * costs["int4"][0]

# %% [markdown]
# ## How fast can it be?
#
# A machine computes and fetches at the same time. The slower of the two decides how long a piece of work takes. Two
# numbers of the machine and two of the work are enough for a prediction, and the prediction is a *bound*: no program
# gets below it.

# %% exercise="inference.roofline.roofline_time"

# %% [markdown]
# Measure your machine: how fast it reads memory, and how fast it multiplies matrices. Beside it stands what was
# recorded on one core of a server's CPU of 2022 (AMD Zen 4, with AVX-512 and products of bf16, without AMX).

# %% name="this_machine"
from minillm.inference import roofline

RECORDED = {"memory": 27.0, "fp32": 82.0, "bf16": 197.0, "fp16": 4.3}
bandwidth = roofline.measure_bandwidth(2**27)
peaks = {"fp32": roofline.measure_matmul(768, torch.float32), "bf16": roofline.measure_matmul(768, torch.bfloat16),
         "fp16": roofline.measure_matmul(96, torch.float16)}
print(f"memory: {bandwidth / 1e9:6.1f} GB/s      (recorded: {RECORDED['memory']:.1f})")
for name, peak in peaks.items():
    print(f"{name}:   {peak / 1e9:6.1f} GFLOP/s   (recorded: {RECORDED[name]:.1f})")
assert bandwidth > 0 and min(peaks.values()) > 0

# %% [markdown]
# If fp16 looks broken in your list: on a CPU without instructions for it, fp16 matrices are multiplied by a program of
# last resort. Half the bytes, and still far slower than float32. Formats are not fast, kernels are.
#
# ### Reading a prompt, writing a token
#
# A layer with $n$ weights does $2n$ operations for each token, and reads the weights once for *all* tokens of the call.
# So $B$ tokens at a time do $B$ operations for each byte of a 16-bit weight. Reading a prompt is prefill, many tokens
# at once; writing is one token at a time.
#
# **Predict.** A model of 7 billion parameters in 16 bits. How many tokens a second can it write for one reader, on an
# H100 with 3.35 TB/s, and on a desktop with 80 GB/s?

# %%
guess_h100, guess_desktop = None, None

# %% name="decode_and_prefill_bounds" tags=["compare"]
from minillm.config import preset
from minillm.inference import roofline
from minillm.model.counting import count_parameters

n_weights = count_parameters(preset("llama-7b"))["total"]
MACHINES = {"H100": (989e12, 3.35e12), "A100": (312e12, 2.04e12), "desktop CPU": (2e12, 80e9)}  # 16 bits; data sheets
bounds = {}
with mine.active():
    for name, (peak, rate) in MACHINES.items():
        for bits in (16, 4.65):
            decode = roofline.roofline_time(2 * n_weights, n_weights * bits / 8, peak, rate)
            prefill = roofline.roofline_time(2 * n_weights * 2048, n_weights * bits / 8, peak, rate)
            bounds[name, bits] = 1 / decode, 2048 / prefill
            print(f"{name:11s} {bits:5.2f} bits: writes {1 / decode:4.0f} tokens/s at most, reads "
                  f"{2048 / prefill:6.0f} tokens/s")
assert 247 < bounds["H100", 16][0] < 250 and 5.8 < bounds["desktop CPU", 16][0] < 6.1
writes, reads = ([bounds["H100", 16][i] / bounds["desktop CPU", 16][i] for i in (0, 1)])
assert writes < 45 and reads > 400 and bounds["desktop CPU", 4.65][0] > 3 * bounds["desktop CPU", 16][0]
assert bounds["desktop CPU", 4.65][1] == bounds["desktop CPU", 16][1]
print(f"H100 over desktop: {writes:.0f} times in writing, {reads:.0f} times in reading; you said", guess_h100,
      guess_desktop)

# %% [markdown]
# "A GPU is faster because it computes in parallel", says the popular answer. That is the *second* line of an answer. In
# writing for one reader a GPU is faster because its memory is: forty times, and not four hundred. And fewer bits help
# writing, in proportion, but not reading a prompt, where arithmetic is the limit.
#
# Where is the bend?

# %% name="ridge_of_a_gpu" tags=["compare"]
peak, rate = MACHINES["H100"]
ridge = roofline.ridge_point(peak, rate)
assert abs(ridge - 295) < 1
for batch in (1, 16, 256, 512):
    flops, moved = roofline.linear_flops(batch, 4096, 4096), 4096 * 4096 * 2
    share = flops / roofline_time(flops, moved, peak, rate) / peak
    print(f"{batch:3d} tokens at a time: {flops / moved:3.0f} FLOP a byte, at most {share:5.1%} of the arithmetic")
    assert flops / moved == batch and (share < 0.01) == (batch == 1) and (share == 1) == (batch > ridge)
print(f"the bend is at {ridge:.0f} FLOP a byte")
for backend in ("opencl", "cuda"):
    try:
        torch.ones(1, device=backend)
        there = True
    except (RuntimeError, NotImplementedError, AssertionError):
        there = False
    if backend == "opencl":
        assert not there
        print("opencl: torch knows the word and has nothing behind it")

# %% [markdown]
# So that is what a GPU's thousands of lanes and its tensor cores are for: prompts, training, and many readers at a
# time. One reader alone uses less than a hundredth of them. A TPU is the same idea carried further: a square of
# 256 × 256 multipliers through which activations flow, so that each weight, once fetched, meets many of them.
#
# "CUDA or OpenCL", the popular sheet goes on. The first is right. The second you have just tried: what deep learning
# uses besides CUDA is ROCm on AMD's GPUs, XLA on TPUs, Metal on Apple's.
#
# ### Prediction against measurement
#
# Now this machine and SmolLM2. Each format is predicted from its bytes and your bandwidth, then measured: a prompt of
# 128 tokens, and some tokens of writing, by the fast path that `python -m minillm generate` takes. (It is one file,
# `minillm/inference/fast/decoder.py`: a step of one token in plain PyTorch, with as few operations as it takes.)

# %% name="writing_predicted_and_measured"
import time

from minillm.inference.fast import choose
from minillm.inference.generate import generate


def tokens_per_second(model, prompt, n_tokens=8):
    cache = model.new_cache(1, prompt.shape[1] + n_tokens + 2)
    text = generate(model, prompt, 2, temperature=0.0, cache=cache)
    start = time.perf_counter()
    generate(model, text[:, -1:], n_tokens, temperature=0.0, cache=cache)
    return n_tokens / (time.perf_counter() - start)


RECORDED_SPEED = {"fp32": 23, "bf16": 48, "int8": 40, "int4": 74}
speed = {}
for name, model in formats.items():
    bound = roofline.decode_bound(stored_bytes(model), bandwidth)
    speed[name] = bound, tokens_per_second(choose.fastest(model, kernel="none"), shown[:, :8])
    print(f"{name}: at most {bound:4.0f} tokens/s, measured {speed[name][1]:5.1f}, {speed[name][1] / bound:.0%} of it"
          f"   (recorded: {RECORDED_SPEED[name]})")
if real is not None:
    in_order = [speed[name][0] for name in ("fp32", "bf16", "int8", "int4")]
    assert in_order == sorted(in_order) and in_order[3] > 3 * in_order[0]  # the bounds, not the times

# %% name="reading_predicted_and_measured"
RECORDED_READING, rates = {"fp32": 237, "bf16": 422}, {}
if real is not None:
    n_linear = sum(part.weight.numel() for part in block_linears(real).values()) + real.lm_head.weight.numel()
    for name in ("fp32", "bf16"):
        flops, moved = 2 * n_linear * 128, stored_bytes(formats[name])
        predicted = roofline_time(flops, moved, peaks[name], bandwidth)
        with torch.inference_mode():
            took = roofline.least_seconds(lambda name=name: formats[name](shown[:, :128]), 2)
        rates[f"prompt, {name}"] = flops / moved, flops / took
        rates[f"writing, {name}"] = 2 * n_linear / moved, 2 * n_linear * speed[name][1]
        print(f"{name}: 128 tokens at once, {flops / moved:.0f} FLOP a byte: at most {128 / predicted:.0f} tokens/s, "
              f"measured {128 / took:.0f}   (recorded: {RECORDED_READING[name]})")
        assert flops / moved > 20 * 2 * n_linear / moved and 2 * n_linear / moved <= 1.1
roofs = {"here, fp32": (peaks["fp32"], bandwidth), "here, bf16": (peaks["bf16"], bandwidth), "H100": MACHINES["H100"]}
plots.show(pictures.roofline_picture(roofs, rates, "What is possible, and what was reached"), alt="Slanted roofs that "
           "bend into level ones: writing lies far left under the slope, reading a prompt at the right under the level")

# %% [markdown]
# The bound is not a promise. Below it lies what the program wastes: small operations between the products, threads that
# wait for each other, kernels that convert more than they multiply. If your measured bandwidth is that of a busy
# machine, the "bound" may even be passed: measure again when it is quiet.
#
# ### Why int8 can be slower than 16 bits
#
# Half the bytes of fp16: so at most twice as fast in writing. But only if nobody makes them more again. Count the bytes
# that one product of a row moves in three programs: 16-bit weights; int8 that is restored to float32 and then
# multiplied; int8 that is converted in registers.

# %% name="naive_int8_moves_more_bytes" tags=["compare"]
R = C = 1024
x, weight = torch.ones(1, C), torch.randn(R, C, generator=torch.Generator().manual_seed(6))
q, scales = rows.quantize_rows(weight)
with MemoryLedger() as ledger:
    x @ rows.restore_rows(q, scales).T
copies = ledger.peak_bytes // (R * C)
assert ledger.largest == R * C and copies >= 4
traffic = {"fp16": 2, "int8, restored first": 1 + 4 + 4, "int8, in registers": 1}  # read; written and read again
least = {name: roofline_time(2 * R * C, n_bytes * R * C, 1e12, 1e10) for name, n_bytes in traffic.items()}
for name, n_bytes in traffic.items():
    print(f"{name:21s} {n_bytes} bytes a weight, at least {least[name] / least['fp16']:.1f} times the time of fp16")
assert least["int8, restored first"] > 4 * least["fp16"] == 8 * least["int8, in registers"]
error = affine.relative_error(weight, rows.restore_rows(q, scales))
assert error < 0.01
print("a float copy of the whole matrix is made, though the weights are off by less than 1 %")

# %% [markdown]
# The ledger finds the copy. Restored first, int8 moves more than four times the bytes of fp16 and must be slower. Here
# is what it takes on your machine, each as fast as torch does it:

# %% name="one_row_in_every_format"
from minillm.inference.quantization import packed

x, weight = torch.randn(1, 4096), torch.randn(4096, 4096)
q, scales = rows.quantize_rows(weight)
ways = {"fp32": (x, weight), "bf16": (x.bfloat16(), weight.bfloat16()), "fp16": (x.half(), weight.half())}
takes = {name: roofline.least_seconds(lambda pair=pair: pair[0] @ pair[1].T, 3) for name, pair in ways.items()}
takes["int8, restored first"] = roofline.least_seconds(lambda: x @ rows.restore_rows(q, scales).T, 3)
takes["int8, your function"] = roofline.least_seconds(lambda: int8_linear(x, q, scales), 3)
if packed.suits_int8(x.bfloat16()):
    takes["int8, torch's kernel"] = roofline.least_seconds(lambda: packed.int8_product(x.bfloat16(), q, scales), 3)
RECORDED_MS = {"fp32": 5.1, "bf16": 3.7, "fp16": 1.7, "int8, restored first": 114.0, "int8, your function": 92.0,
               "int8, torch's kernel": 1.4}
for name, seconds in takes.items():
    print(f"{name:21s} {1e3 * seconds:6.1f} ms   (recorded: {RECORDED_MS[name]:.1f})")

# %% [markdown]
# "Int8 is faster than fp16" is true of a kernel, not of a format. LLM.int8() itself is slower than fp16 in its authors'
# own measurements, the more so the smaller the model: the split costs more than the bytes save. What int8 always saves
# is memory.

# %% [markdown]
# ## Your functions at work
#
# All that you have built in one go: the small GPT with weights in 8 and in 4 bits, its activations in 8 with outliers
# apart, and what the roofline says about it. Then the real model, with your `int8_linear` in all of its 211 products.

# %% name="your_functions_at_work" tags=["compare"]
def nats_of(model):
    return harness.loss_by_position(model, windows[:8]).mean().item()


with mine.active():
    in_bits = {name: nats_of(convert.quantize_model(tiny, name)) for name in ("int8", "int4")}
    with swapped_products(tiny, lambda x, w: w8a8.w8a8_linear(x, *rows.quantize_rows(w))):
        in_bits["W8A8"] = nats_of(tiny)
    with swapped_products(tiny, lambda x, w: outliers.outlier_split(x, w)):
        in_bits["outliers apart"] = nats_of(tiny)
    bound = roofline.roofline_time(2e6, 1e6, 1e12, 1e10)
ran = {name.rpartition(".")[2]: (whose, calls) for name, whose, calls in mine.table().rows}
for name in ("quantize_rows", "int8_linear", "int4_groups", "int8_matmul", "outlier_split", "roofline_time"):
    print(f"{name:14s} {ran[name][0]}")
    assert ran[name][1] > 0
assert all(abs(nats - nats_of(tiny)) < 0.05 for nats in in_bits.values()) and bound == 1e-4
print("in all four ways the small GPT is as surprised as in float32, to 0.05 nats a character")

# %% name="your_product_in_a_real_model"
if real is not None:
    ids, small = shown[:, :8], formats["int8"]
    with torch.inference_mode():
        theirs = small(ids).float()
        with mine.active():
            yours = small(ids).float()
            whose, calls = {row[0].rpartition(".")[2]: row[1:] for row in mine.table().rows}["int8_linear"]
    kl = mean_kl(theirs, yours)
    assert kl < 0.01 and calls > 0
    print(f"int8_linear ({whose}) was called; KL to the model without it: {kl:.4f} nats a token")

# %% [markdown]
# ## Explore
#
# Choose a format, bits and a group size, and watch the weights fall onto their grid. Find the setting with the smallest
# error below 4.5 bits a weight. What changes when you take other weights?

# %% name="explorer"
from functools import partial

from minillm.course.scenes import quantization_explorer as explorer
from minillm.course.widgets import Explorer

matrices = {"small GPT, FFN": tiny_weights["0.ffn.up_proj"], "small GPT, values": tiny_weights["1.attn.v_proj"]}
if real is not None:
    matrices |= {"SmolLM2, FFN": real_weights["12.ffn.up_proj"], "SmolLM2, queries": real_weights["12.attn.q_proj"]}
Explorer(
    partial(explorer.quantization_picture, matrices),
    "Weights of the small GPT before and after rounding to 4 bits, their errors, and error against bits a weight",
    **explorer.quantization_controls(matrices),
)

# %% [markdown]
# ## Read a kernel
#
# What is left to gain? Your table above says how much of the bound plain PyTorch reaches. The rest is lost between the
# products, and in products that unpack more than they multiply. A program that does one thing only, one token through a
# LLaMA-shaped model, can do better: `minillm/inference/fast/kernel.cpp`, about 200 lines of C++, compiled when it is
# first asked for, if there is a compiler. Nothing in it is new to you. Here is its heart, in the form for any
# processor:

# %% name="the_heart_of_the_kernel"
from minillm.course.scenes.kernel_reading import kernel_part

print(kernel_part("*_portable"))

# %% [markdown]
# Whole numbers, multiplied and added up in 32 bits: your `int8_matmul`, in a few lines. Recent processors have it as
# *one* instruction, which multiplies 64 pairs of bytes and adds them up in 16 sums (`dpbusd`, of AVX512-VNNI); the file
# has that form too, and one for AVX2. With floats, each weight would have to be converted first, and arithmetic would
# be the limit, not memory.
#
# How do scales and lows get in, if the sum is of whole numbers? By the algebra of this lesson. Activations are int8, as
# in W8A8, with a scale $t$ for each group of 32, so that an outlier spoils 31 neighbours at most. In each group
#
# $$\sum_c (\text{code}_c \, s + \text{low}) \; a_c \, t
# = t \Big( s \sum_c \text{code}_c \, a_c + \text{low} \sum_c a_c \Big)$$
#
# The first sum is that instruction. The second is the same for all rows, and computed once.

# %% name="the_algebra_of_the_kernel" tags=["compare"]
weight, x = tiny_weights["0.ffn.up_proj"][:16], tested["0.ffn.up_proj"][5]
codes, s, low = int4.int4_groups(weight, 32)
a, t = rows.quantize_rows(x.view(-1, 32))
whole_sums = (codes.view(16, -1, 32).int() * a.int()).sum(-1)
tile = (t.T * (s * whole_sums + low * a.int().sum(-1))).sum(-1)
restored = int4.restore_int4(codes, s, low) @ rows.restore_rows(a, t).flatten()
assert torch.allclose(tile, restored, atol=1e-5) and whole_sums.abs().max() <= 32 * 15 * 127 < 2**31
print("16 outputs from whole sums of 32 products each, a scale and a low a group: as restored first, to 1e-5")

# %% name="a_tile_of_the_matrix"
print(kernel_part("product"))

# %% [markdown]
# Sixteen rows at a time, group by group. `& 0x0f0f0f0f` and `>> 4` are your `unpack_nibbles`, for a whole vector at
# once, in a register: no unpacked copy is ever written. Each byte of the matrix is read once, in the order in which it
# lies in memory, which is the order that memory likes.
#
# The other half of the gain is in what does *not* happen. A token passes some 150 places at which all threads must have
# finished before the next piece begins:

# %% name="a_step_of_the_kernel"
print(kernel_part("step"))

# %% [markdown]
# To send threads to sleep and to wake them again, at each such place, would cost more than the work between two of
# them. So there is **one parallel region for a whole token**: threads wake once, and within it they wait by looking.

# %% name="waiting_by_looking"
print(kernel_part("phase"))
if real is not None:
    quickest = choose.fastest(formats["int4"])
    both, logits = (formats["int4"], quickest), []
    with torch.inference_mode():
        for which in both:
            cache = which.new_cache(1, 24)
            steps = [which(shown[:, i : i + 1], cache=cache)[:, -1].float() for i in range(24)]
            logits.append(torch.cat(steps))
    kl = mean_kl(*logits)
    assert kl < 0.05

# %% name="the_kernel_at_work"
if real is not None:
    rate = tokens_per_second(quickest, shown[:, :8], 24)
    print(f"int4 by a {type(quickest).__name__}: {rate:.0f} tokens/s, {rate / speed['int4'][0]:.0%} of the bound; "
          f"KL to the plain path {kl:.4f} nats a token")
else:
    print("skipped: it needs the real model")

# %% [markdown]
# If it says `KernelDecoder`, your machine has a compiler, and you have measured what 200 lines are worth. What the
# roofline leaves then is little, and the next factor would have to come from fewer bytes: from 3 bits, from fewer
# weights, or from several tokens for one reading of them, which is what lesson 12 is about.

# %% [markdown]
# ## Interview corner
#
# Answer aloud before you unfold. Each answer names the cell that proves it.

# %% [markdown] interview="11"

# %% [markdown]
# ## Remember
#
# 1. A number in few bits is a whole number times a step. Who shares the step decides the error: a row for 8 bits,
#    groups of 32 or 64 for 4. One bit fewer, twice the error; and outputs are what counts, not weights.
# 2. Activations have outliers: loud features and massive tokens. Take them out, hand them over to the weights, or leave
#    activations in floats. Judge by KL to the model before, on weights that never were on the grid.
# 3. Writing waits for memory, reading a prompt for arithmetic. Fewer bytes are faster only if a kernel keeps them few.
#
# **Where next.** Lesson 12 serves many readers with one reading of the weights. Lesson 13 trains beside weights in NF4.
