# %% [markdown]
# # 18 Detours: moons and margins
#
# Two questions from the time before language models are still asked in interviews: what is the V in VAE, and what
# does a kernel do in an SVM? In this lesson you answer both, each in half an hour and with pictures that you can
# check by eye. In the first half you draw moons and find out why a plain autoencoder can store them all and still
# cannot draw a new one. In the second you part circles with a straight cut, in a space with more dimensions than
# there are atoms in the moon, without ever going there.
#
# | | |
# |---|---|
# | **You need** | lesson 00 (tensors, broadcasting), helpful: lesson 08 (gradients, Adam) |
# | **Time** | half an hour for the four exercises, an hour for the rest; the halves can be read apart |
# | **Runs on** | any CPU with 2 GB; all cells together about a quarter of a minute |
#
# **Sources.** Kingma and Welling 2013 (VAE), sections 2.2 to 2.4 and appendix B; Rezende et al. 2014; Williams 1992
# (score function), section 4; Bowman et al. 2016 (collapse), section 3.1; Ghosh et al. 2020, section 3; Boser, Guyon
# and Vapnik 1992 and Cortes and Vapnik 1995 (SVM), sections 2 to 4; Platt 1998 and Keerthi et al. 2001 (how it is
# trained); Micchelli 1986; Schölkopf and Smola 2002, sections 2.2 and 2.3.
#
# An exercise is three cells: the task with folded hints, a cell for your function, and a check that tells you which
# mistake you made. Until yours is right, the lesson goes on with the course's own.

# %% [markdown]
# ## Moons

# %% name="moons_and_mixtures"
import math
from functools import partial

import torch

from minillm.course import check, hint, mine, plots, reset, solution  # noqa: F401
from minillm.course.scenes import moon_pictures as pictures
from minillm.detours import autoencoder, moons, vae

torch.set_num_threads(1)
month = torch.linspace(0, 1, 11)
drawn = moons.draw_moons(month)
full = moons.draw_moons(torch.tensor([0.5]))
mixed = moons.lit_share(month)[:, None] * full
plots.show(pictures.moon_rows({"a month": drawn, "mixtures": mixed}), alt="Eleven moons from new to full and back; "
           "beneath, mixtures of the new and the full moon, discs that only get brighter and darker")

# %% [markdown]
# Each moon is a picture of 16 × 16 pixels, so 256 numbers. But only *one* number changes from moon to moon: the
# phase. In the space of all pictures the moons are a thin thread, and a closed one, since the month begins where it
# ends. The second row leaves the thread: half new plus half full is no half moon, it is a full moon in fog. How far
# away is it?

# %% name="how_far_from_a_moon" tags=["compare"]
for name, picture in {"half moon": moons.draw_moons(torch.tensor([0.25])), "half new, half full": full / 2}.items():
    distance, phase = moons.nearest_moon(picture)
    print(f"{name:20s} {distance.item():5.1f} from the nearest moon, whose phase is {phase.item():.2f}")
assert distance > 20

# %% [markdown]
# The distance is a sum of squares over the pixels; a pixel that is black where it should be white counts 1. In most
# problems nobody knows which pictures are right. Here we do, and can measure what others judge by eye.
#
# ## An autoencoder
#
# An **encoder** turns 256 numbers into two, a **decoder** makes 256 of them again, and both are trained until what
# comes out is what went in. Nothing tells them what a phase is, nor that after the last moon comes the first. Where
# do they put the moons?

# %% name="where_the_moons_lie"
known, shown_phases = moons.draw_moons(torch.arange(256) / 256), (torch.arange(120) + 0.4) / 120
unseen = moons.draw_moons(shown_phases)
autoencoders = [autoencoder.train_coder(known, autoencoder.reconstruction_only, noisy=False, seed=s) for s in range(3)]
plain = autoencoders[0]
plain_codes = plain.encode(unseen)[0]
plots.show(pictures.latent_maps({"autoencoder: codes of 120 moons": (plain_codes, None)}, shown_phases),
           alt="A closed curve of dots in the plane, coloured by phase from new to full and back")

# %% name="as_good_as_the_original" tags=["compare"]
lost = (plain(unseen) - unseen).square().sum(-1).mean().item()
between = (moons.draw_moons((shown_phases + 0.05) % 1) - unseen).square().sum(-1).mean().item()
assert lost < 0.25 * between
print("256 numbers, stored in two. Of a moon that it has never seen it loses less than a quarter of what changes")
print("in the sky within a day and a half")

# %% [markdown]
# It has found the calendar: a bent loop, each moon near the next and the last near the first. As a store it is
# excellent. Now let it *draw*. **Predict.** A code is two numbers. Draw them from N(0, 1): how often will you get a
# moon?

# %%
guess_share_of_moons = None

# %% name="a_code_at_random" tags=["compare"]
MOON = 3.0  # nearer than this to the thread, and you would call it a moon
samples = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
at_random = plain.decode(samples)
far, _ = moons.nearest_moon(at_random)
plots.show(pictures.moon_rows({"at random": at_random[:10]}, {"at random": [f"{d:.1f}" for d in far[:10]]}),
           alt="Ten pictures decoded from random codes, many of them no moons, with their distances")
share = (far < MOON).float().mean().item()
assert share < 0.7
print(f"fewer than seven in ten are moons; you said {guess_share_of_moons}")

# %% [markdown]
# The numbers below the pictures are distances from the thread. Off the loop there is nothing: no training picture
# ever fell there, and no term of the loss asked what should. And nobody knows where in the plane the loop lies. The
# decoder is asked about places that it has never heard of, and makes something up.
#
# Both would be mended if the codes filled a *known* region, and if the neighbours of a code decoded to nearly the
# same picture. That is what the V does.
#
# ## V for variational
#
# Turn the question round. Suppose there is a story of how pictures come about: first a code $z$ is drawn from N(0,
# I), then a picture is drawn about decode($z$). Then for every picture there is a right answer to "which codes may it
# have come from?", the **posterior** $p(z \mid x)$. It is not one code, it is a cloud of them. And it cannot be
# computed, because that takes an integral over all codes.
#
# So one computes the best *approximation* among simple distributions, here bells $q(z \mid x)$ with a mean and a
# width for each latent feature. To look for a best function is what the calculus of **variations** does; hence the V.
# "Best" means: the largest lower bound on the probability of the picture,
#
# $$\log p(x) \;\ge\; \underbrace{\mathbb{E}_{q}[\log p(x \mid z)]}_{\text{the code explains the picture}}
# - \underbrace{\mathrm{KL}(q(z \mid x) \,\|\, p(z))}_{\text{and says no more than needed}}
# \;=\; \text{ELBO}$$
#
# ### One number by hand
#
# Take a picture of a single pixel and a decoder that does nothing: $z$ from N(0, 1), then $x$ from N($z$, ½). You see
# $x = 1$. Now everything can be computed: $x$ itself is N(0, 3/2), and the posterior is a bell at 2/3 with variance
# 1/3. Here is the bound, for all bells.

# %% name="the_bound_by_hand" tags=["compare"]
x, pixel_var = 1.0, 0.5
log_p = -0.5 * math.log(2 * math.pi * 1.5) - x**2 / (2 * 1.5)
means, variances = torch.linspace(-0.5, 1.5, 61), torch.linspace(0.05, 1.2, 70)
m, s2 = torch.meshgrid(means, variances, indexing="ij")
explains = -0.5 * math.log(2 * math.pi * pixel_var) - ((x - m).square() + s2) / (2 * pixel_var)
elbo = explains - 0.5 * (m.square() + s2 - 1 - s2.log())
best = elbo.argmax()
print(f"log p(x) = {log_p:.4f}; the largest bound = {elbo.max():.4f}")
print(f"it is that of a bell at {m.flatten()[best]:.2f} with variance {s2.flatten()[best]:.2f}")
assert bool((elbo <= log_p + 1e-6).all()) and abs(elbo.max().item() - log_p) < 1e-3
figure, (axes,) = plots.new_figure(width=5.2, height=3.2)
levels = [-6, -4, -3, -2.5, -2, -1.8, -1.6, -1.5, -1.45]
drawn_levels = axes.contourf(means, variances, elbo.T, levels=levels, cmap="cividis")
axes.plot([2 / 3], [1 / 3], "*", color=plots.COLOURS[3], markersize=14)
axes.set(xlabel="mean of the bell", ylabel="its variance", title="ELBO; the star is the true posterior")
figure.colorbar(drawn_levels, ax=axes)
plots.show(figure, alt="The bound over mean and variance of the bell: one hill, its top at the posterior")

# %% [markdown]
# No bell gets above log p(x), and the best one touches it, exactly where the posterior is. To push the bound up is to
# find the posterior, without the integral. The KL is the second half of the bound. For bells it has a closed form.

# %% exercise="detours.vae.kl_gaussian"

# %% [markdown]
# A closed form is worth checking against what it stands for: the mean of $\log q(z) - \log p(z)$ over codes drawn
# from $q$. 200,000 draws for a bell at 0.7 with variance $e^{-0.5}$:

# %% name="kl_closed_and_by_drawing" tags=["compare"]
bell = torch.distributions.Normal(0.7, math.exp(-0.25))
standard = torch.distributions.Normal(0.0, 1.0)
z = bell.sample((200_000,))
ratios = bell.log_prob(z) - standard.log_prob(z)
with mine.active():
    closed = kl_gaussian(torch.tensor([[0.7]]), torch.tensor([[-0.5]])).item()
error_bar = (ratios.std() / len(ratios) ** 0.5).item()
assert abs(ratios.mean().item() - closed) < 6 * error_bar and error_bar < 0.003
print(f"closed form {closed:.4f} nats; by drawing the same, within the error of 200,000 draws")

# %% [markdown]
# The first half of the bound is an expectation over codes drawn from a bell whose mean and width are to be *trained*.
# So a gradient must come back through a draw. A draw has none: it is chance. The trick is to take the chance out.
# Draw the noise first, from N(0, 1), where nothing is to be trained; then stretch it by the width and move it by the
# mean. The code is the same, and now it is an ordinary function of both.

# %% exercise="detours.vae.reparameterize"

# %% [markdown]
# **Predict.** There is an older way that also needs no derivative of the draw, the **score function**: weigh $\nabla
# \log q(z)$ by what $z$ was worth (it is REINFORCE, and policy gradients in lesson 15 do it). Both are right on
# average. For the same number of draws, how much noisier is one than the other?

# %%
guess_ratio_of_variances = None

# %% name="a_gradient_through_chance" tags=["compare"]
mu = torch.full((100_000,), 1.5, requires_grad=True)
log_var = torch.zeros(100_000, requires_grad=True)
no_graph = torch.distributions.Normal(mu, (log_var / 2).exp()).sample()
noise = torch.randn(100_000, generator=torch.Generator().manual_seed(1))
with mine.active():
    z = reparameterize(mu, log_var, noise)
through, _ = torch.autograd.grad(z.square().sum(), (mu, log_var))  # a gradient for each draw
score = (z.square() * (z - mu)).detach()  # z^2 times d log q / d mu
ratio = (score.var() / through.var()).item()
assert not no_graph.requires_grad and abs(through.mean() - 3) < 0.05 and abs(score.mean() - 3) < 0.15 and ratio > 5
print("torch's sample() has a gradient:", no_graph.requires_grad)
print("d/dmu of E[z^2] at mu = 1.5 is 3 in both ways, to the error of 100,000 draws")
print(f"the score function's variance is {ratio:.0f} times as large; you said {guess_ratio_of_variances}")

# %% [markdown]
# That is what the reparameterization is for. Without it a VAE could be trained too, with many more draws; with it one
# draw a picture is enough.
#
# ### Find the bug: one moon for all codes
#
# Two terms, one loss. Somebody put them together, took torch's own function for the squared error, and trained. The
# loss fell nicely. Here are the moons, and what came out.

# %% name="one_moon_for_all_codes" tags=["compare"]
def negative_elbo_with_a_bug(x, x_hat, mu, log_var, noise_var=1.0):
    off = torch.nn.functional.mse_loss(x_hat, x) / (2 * noise_var)
    return off + vae.kl_gaussian(mu, log_var).mean()


collapsed = autoencoder.train_coder(known, negative_elbo_with_a_bug)
out, kept = collapsed(drawn), vae.kl_gaussian(*collapsed.encode(drawn)).max().item()
plots.show(pictures.moon_rows({"in": drawn, "out": out}), alt="A month of moons; beneath, always the same grey disc")
assert (out - out[0]).abs().max() < 0.1 and kept < 0.05
print("all codes say the same: less than 0.05 nats about any moon. This is called posterior collapse")

# %% exercise="detours.vae.negative_elbo"

# %% [markdown]
# ### Moons with bells
#
# Now train with it, and with your `reparameterize` and `kl_gaussian`, if they passed.

# %% name="moons_with_bells"
with mine.active():
    variational = [autoencoder.train_coder(known, seed=s) for s in range(3)]
smooth = variational[0]
codes, log_variances = smooth.encode(unseen)
maps = {"autoencoder": (plain_codes, None), "VAE, with some of its bells": (codes, (log_variances / 2).exp())}
plots.show(pictures.latent_maps(maps, shown_phases, samples[:300]), alt="Left the autoencoder's loop, which most of "
           "the grey samples miss; right the VAE's, a ring in the middle of them, covered with overlapping bells")
mine.table()

# %% [markdown]
# The grey dots are codes drawn from N(0, I), the dashed circles hold 39 and 86 per cent of them. The autoencoder's
# loop lies where it happens to lie. The VAE's is a ring in the middle of the dots, and each moon has a bell around
# it: whatever lies under the bell must decode to *nearly* this moon. That is what fills the plane.
#
# One objection must be met. The autoencoder was asked about N(0, I), and has never heard of it. Let us be fair, and
# draw from the bell that fits *its* codes best, with their mean and covariance.

# %% name="what_the_vae_draws"
def drawn_from_the_fit(coder):
    """Pictures of codes that have mean and covariance of the coder's own."""
    own = coder.encode(known)[0]
    return coder.decode(own.mean(0) + samples @ torch.linalg.cholesky(torch.cov(own.T)).T)


coders = {"autoencoder": autoencoders, "VAE": variational}
lost = {name: [(one(unseen) - unseen).square().sum(-1).mean() for one in three] for name, three in coders.items()}
away = {name: [moons.nearest_moon(one.decode(samples))[0] for one in three] for name, three in coders.items()}
away["autoencoder, fitted"] = [moons.nearest_moon(drawn_from_the_fit(one))[0] for one in autoencoders]
for name, rows in away.items():
    shares = ", ".join(f"{(row < MOON).float().mean():.0%}" for row in rows)
    stored = f"loses {torch.stack(lost[name]).mean():.2f} when it stores" if name in lost else ""
    print(f"{name:19s} {torch.cat(rows).mean():5.1f} from a moon, moons with 3 seeds: {shares}   {stored}")
far = {name: torch.stack(rows).mean(1) for name, rows in away.items()}
assert (far["VAE"] < 0.7 * far["autoencoder"]).all() and (far["VAE"] < 0.7 * far["autoencoder, fitted"]).all()
assert sum(lost["VAE"]) > 1.1 * sum(lost["autoencoder"])

# %% name="drawn_by_both"
made = {"autoencoder": plain.decode(samples[:10]), "fitted": drawn_from_the_fit(plain)[:10],
        "VAE": smooth.decode(samples[:10])}
notes = {name: [f"{d:.1f}" for d in moons.nearest_moon(rows)[0]] for name, rows in made.items()}
plots.show(pictures.moon_rows(made, notes), alt="Ten random codes, decoded by the autoencoder, by the autoencoder from "
           "its fitted bell, and by the VAE, whose pictures are moons")

# %% [markdown]
# Better at drawing, worse at storing: the VAE pays for its smoothness with sharpness. A bell that is wide enough to
# fill the plane covers several moons, and what is best for all of them is their average: blur.
#
# The fitted bell helps the autoencoder a lot. To learn the distribution of the codes *afterwards* is a serious method
# (Ghosh et al. 2020), and with a better model than a bell it is how latent diffusion draws. Here a bell is not the
# shape of a loop.
#
# ### Who did it?
#
# The VAE has two things that the autoencoder lacks, the noise and the KL. **Predict.** Train with noise alone, its
# width free. What will the encoder do with the width? And with the KL alone, without noise?

# %%
guess_noise_alone, guess_kl_alone = "?", "?"

# %% name="what_each_part_adds"
noise_alone = [autoencoder.train_coder(known, autoencoder.reconstruction_only, seed=s) for s in range(2)]
kl_alone = [autoencoder.train_coder(known, noisy=False, seed=s) for s in range(3)]
four = {"neither": autoencoders, "noise alone": noise_alone, "KL alone": kl_alone, "both": variational}
spread, width, off = {}, {}, {}
for name, seeds in four.items():
    bells = [coder.encode(unseen) for coder in seeds]
    spread[name] = torch.stack([mu.std(0).mean() for mu, _ in bells])
    width[name] = torch.stack([(log_var / 2).exp().mean() for _, log_var in bells])
    off[name] = torch.stack([moons.nearest_moon(coder.decode(samples))[0].mean() for coder in seeds])
    wide = f"bells as wide as {width[name].mean():.2f}" if name in ("noise alone", "both") else "no bells"
    away = ", ".join(f"{distance:.1f}" for distance in off[name])
    print(f"{name:12s} codes spread {spread[name].mean():4.2f}, {wide:21s}  drawn ones from a moon: {away}")
assert (width["noise alone"] < 0.05 * spread["noise alone"]).all() and (width["both"] > 0.1 * spread["both"]).all()
assert (spread["KL alone"] < 0.6 * spread["both"].mean()).all()
assert all(off["both"].mean() < 0.7 * off[name].mean() for name in ("neither", "noise alone", "KL alone"))
assert off["both"].amax() < MOON

# %% [markdown]
# Noise alone is turned off: the encoder makes its bells so narrow that they do not matter. KL alone squeezes the
# codes into a small ring about 0. Nothing blurs them, so the decoder reads them there as with a magnifying glass, and
# most of the plane belongs to nobody: what is decoded there hangs on the seed. Only together do they work with every
# seed: the KL holds the codes near 0 and the bells wide, and the noise makes the decoder mean it.
#
# ### Halfway
#
# Here is the whole plane, decoded place by place, with the codes of the month as a line. **Predict.** Take the code
# of the first quarter (right half lit) and that of the last quarter (left half lit), and decode the point halfway
# between them. Is it a moon, and which?

# %%
guess_halfway = "?"

# %% name="the_plane_decoded"
models = {"autoencoder": (plain.decode, plain_codes), "VAE": (smooth.decode, codes)}
plots.show(pictures.plane_of_moons(models), alt="The plane in 13 by 13 pictures with the loop of codes. Around the "
           "VAE's ring all are moons, in their order; in the autoencoder's plane many are not")

# %% name="halfway" tags=["compare"]
def straight_line(coder, start, end, n=11):
    """Pictures on the straight line from the code of one phase to that of another."""
    ends = coder.encode(moons.draw_moons(torch.tensor([start, end])))[0]
    return coder.decode(torch.lerp(ends[:1], ends[1:], torch.linspace(0, 1, n)[:, None]))


ways = {"autoencoder": straight_line(plain, 0.25, 0.75), "VAE": straight_line(smooth, 0.25, 0.75)}
notes = {name: [f"{d:.1f}" for d in moons.nearest_moon(way)[0]] for name, way in ways.items()}
plots.show(pictures.moon_rows(ways, notes), alt="From the first to the last quarter in a straight line of codes: both "
           "models decode something in the middle that is no moon")
across, near = ({name: torch.stack([moons.nearest_moon(straight_line(one, *ends))[0].amax() for one in three])
                 for name, three in coders.items()} for ends in ((0.25, 0.75), (0.15, 0.35)))
assert (across["VAE"] > MOON).all() and across["autoencoder"].mean() > MOON
assert all((worst < MOON).all() for worst in near.values())
print("across the loop: the VAE leaves the moons with every seed; to a phase nearby: neither does")
print("you said:", guess_halfway)

# %% [markdown]
# So "a VAE can interpolate" is not what the V gives. The month goes once around the middle, and a continuous decoder
# with nothing but moons inside could shrink the month to a point without tearing it. There is no such decoder. What
# the VAE gives is that the hole is small and draws rarely fall into it. To get from one quarter to the other, walk
# along the ring:

# %% name="walk"
from minillm.course.scenes import latent_walk
from minillm.course.widgets import Explorer

both = {"autoencoder": plain, "VAE": smooth}
Explorer(
    partial(latent_walk.walk_picture, both, shown_phases),
    "The plane of the VAE with a cross, the picture that is decoded there, and the nearest true moon",
    **latent_walk.walk_controls(both, 1.0, 0.4),
)

# %% [markdown]
# ### Myth and measurement: "it has never seen a half moon"
#
# A popular answer says why the autoencoder fails: it was trained on the new and the full moon, the half moon was not
# among them, so a code in between means nothing to it. Then the VAE is praised and not explained. But your
# autoencoder *has* seen half moons, and failed all the same. And here are two that have not, trained on thin and on
# nearly full moons only:

# %% name="what_nobody_has_seen" tags=["compare"]
pieces = [torch.linspace(*ends, 64) for ends in ((0, 0.08), (0.42, 0.5), (0.5, 0.58), (0.92, 1))]
without_halves, asked = moons.draw_moons(torch.cat(pieces)), moons.draw_moons(torch.linspace(0, 0.5, 11))
train = partial(autoencoder.train_coder, without_halves, steps=200)
blind = {"autoencoder": train(autoencoder.reconstruction_only, noisy=False), "VAE": train()}
plots.show(pictures.moon_rows({"in": asked, **{name: coder(asked) for name, coder in blind.items()}}),
           alt="Moons from new to full; beneath, what both models make of them: new and full ones are right, half "
           "moons come out as something else")
halves = moons.draw_moons(torch.linspace(0.2, 0.3, 21))
for name, coder in blind.items():
    worse = ((coder(halves) - halves).square().sum(-1).mean() / (both[name](halves) - halves).square().sum(-1).mean())
    print(f"{name:12s} loses more than five times as much of a half moon as one that has seen some")
    assert worse > 5

# %% [markdown]
# A VAE does not know what it has not seen either. It makes what it *has* seen easy to find.
#
# What is left of it today? Latent diffusion (Rombach et al. 2022, section 3.1) draws in the plane of an autoencoder
# with a KL so small that it only keeps codes in bounds. The reparameterization is in every policy that outputs a
# bell. And the bound comes back in diffusion models, where the encoder is fixed and only adds noise.

# %% [markdown]
# ## Margins
#
# Second half, another question. Four points: (1, 1) and (−1, −1) belong to one class, (1, −1) and (−1, 1) to the
# other. It is the XOR of the signs. **Predict.** How many of the four can a straight line get right?

# %%
guess_right_of_four = None

# %% name="four_corners_by_hand" tags=["compare"]
from minillm.detours import kernels, patterns, svm

corners = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
signs = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
lines = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
right = ((lines[:, :2] @ corners.T + lines[:, 2:]).sign() == signs).sum(1)
product = corners[:, 0] * corners[:, 1]
print(f"the best of 20,000 lines: {right.max().item()} of 4; you said {guess_right_of_four}")
print(f"x1 * x2 at the four corners: {product.tolist()}, the labels: {signs.tolist()}")
assert right.max() == 3 and torch.equal(product, signs)

# %% [markdown]
# No line does it, but one more coordinate does: with $x_1 x_2$ as a third number a *plane* parts the classes. The
# same with two circles, one inside the other. A third coordinate $x_1^2 + x_2^2$ lifts the outer one above the inner:

# %% name="circles_lifted"
from minillm.course.scenes import margin_pictures

points, labels = patterns.two_circles(80, torch.Generator().manual_seed(3))
lifted = margin_pictures.lifted_picture(points, labels, lambda p: p.square().sum(1), 0.52)
plots.show(lifted, alt="Left two circles in the plane; right the same points on a bowl, and a level plane between "
           "them")

# %% [markdown]
# ### The widest street
#
# Of all planes that part the classes, a **support vector machine** takes the one with the widest empty street on both
# sides. Its weights turn out to be a sum over training points,
#
# $$w = \sum_i \alpha_i y_i \, \phi(x_i), \qquad f(x) = \langle w, \phi(x) \rangle + b
# = \sum_i \alpha_i y_i \, \langle \phi(x_i), \phi(x) \rangle + b$$
#
# with $0 \le \alpha_i \le C$, and $\alpha_i = 0$ for all points but those at the edge of the street or in it, the
# **support vectors**. Look at what is needed of $\phi$: inner products, in training and afterwards, and nothing else.
# So if somebody gives us a function $k(x, y)$ with the value of that inner product, we never have to see $\phi$. That
# is the **kernel trick**, the whole of it.
#
# For all monomials up to degree two of two numbers, with the right factors, the inner product is $(1 + x \cdot y)^2$.
# For the four corners that can be solved by hand: by symmetry all $\alpha$ are equal, and each must be 1/8.

# %% name="the_kernel_is_an_inner_product" tags=["compare"]
square = partial(kernels.polynomial_kernel, degree=2)
written_out = kernels.polynomial_features(corners, 2)
by_hand = svm.fit_svm(corners, signs, square, penalty=100.0, tolerance=1e-9)
print("(1 + x.y)^2 at the four corners:", square(corners, corners)[0].tolist(), "...")
print(f"six coordinates a point; alpha = {[round(a, 6) for a in by_hand.weights.abs().tolist()]}")
assert torch.allclose(written_out @ written_out.T, square(corners, corners), atol=1e-12)
assert torch.allclose(by_hand.weights, signs / 8) and abs(by_hand.bias) < 1e-9
w = by_hand.weights @ written_out
assert torch.allclose(by_hand.decision(corners), product) and int((w.abs() > 1e-9).sum()) == 1
print(f"all coordinates of w but that of x1*x2 are 0: f(x) = x1*x2. Half the street: {by_hand.margin:.4f} = sqrt(2)")

# %% [markdown]
# How is it trained? By pushing two weights at a time, which keeps $\sum_i \alpha_i y_i = 0$: from the point that
# wants its weight least to the one that wants it most, as far as is best. It is forty lines, in
# `minillm/detours/svm.py`, and it needs the Gram matrix of all $k(x_i, x_j)$, nothing of the space.
#
# Now the circles: a machine without a kernel; one that gets the six coordinates written out; one with the kernel.

# %% name="it_never_enters_the_space" tags=["compare"]
new_points, new_labels = patterns.two_circles(1000, torch.Generator().manual_seed(4))
into_six = partial(kernels.polynomial_features, degree=2)
straight = svm.fit_svm(points, labels, kernels.linear_kernel)
in_the_space = svm.fit_svm(into_six(points), labels, kernels.linear_kernel, tolerance=1e-6)
by_the_trick = svm.fit_svm(points, labels, square, tolerance=1e-6)
right = {"linear": svm.accuracy(straight, new_points, new_labels),
         "six coordinates": svm.accuracy(in_the_space, into_six(new_points), new_labels),
         "kernel": svm.accuracy(by_the_trick, new_points, new_labels)}
for name, share in right.items():
    print(f"{name:16s} {'half' if share < 0.75 else 'all but a few'} of 1,000 new points on the right side")
apart = (in_the_space.decision(into_six(new_points)) - by_the_trick.decision(new_points)).abs().max().item()
assert right["linear"] < 0.75 and min(right["six coordinates"], right["kernel"]) > 0.97 and apart < 1e-4
print("the last two are the same machine: their outputs agree to 1e-4")

# %% [markdown]
# "The kernel maps the data into a high-dimensional space", says the popular answer. It is the one thing that it does
# *not* do. **Predict.** For the moons, 256 numbers each, and all monomials up to degree five: how many coordinates
# would have to be computed? And how many multiplications does the kernel take?

# %%
guess_coordinates, guess_multiplications = None, None

# %% name="never_written_out" tags=["compare"]
coordinates = kernels.polynomial_dimension(256, 5)
print(f"{coordinates:,} coordinates, {8 * coordinates / 2**30:.0f} GiB for one moon in float64")
print(f"the kernel: 256 multiplications and 4 more; you said {guess_coordinates} and {guess_multiplications}")
some = (torch.arange(60) + 0.5) / 60
is_near_half = [torch.where((moons.lit_share(p) - 0.5).abs() < 0.25, 1.0, -1.0).double() for p in (some, shown_phases)]
fifth = partial(kernels.polynomial_kernel, degree=5)
machine = svm.fit_svm(moons.draw_moons(some).double() / 16, is_near_half[0], fifth, penalty=100.0)
share = svm.accuracy(machine, unseen.double() / 16, is_near_half[1])
assert coordinates == math.comb(261, 5) > 9e9 and share > 0.9
print("and it tells moons that are about half lit from others: more than nine in ten of 120 unseen ones")

# %% [markdown]
# ## How many dimensions?
#
# For polynomials, count the monomials: $\binom{n + d}{d}$. The most popular kernel of all is another, and measures
# nearness.

# %% exercise="detours.kernels.rbf_kernel"

# %% name="three_kernels"
with mine.active():
    near = partial(kernels.rbf_kernel, gamma=2.0)
    kinds = {"linear": kernels.linear_kernel, "polynomial, degree 2": square, "RBF": near}
    trained = {name: (svm.fit_svm(points, labels, kernel), labels) for name, kernel in kinds.items()}
    figure = margin_pictures.decision_maps(trained)
plots.show(figure, alt="Two circles: the linear machine finds no border between them, the polynomial one an ellipse, "
           "the RBF one a closed curve; support vectors are ringed")
assert svm.accuracy(trained["RBF"][0], new_points, new_labels) > 0.95

# %% [markdown]
# Ringed points are support vectors, dashed lines the edges of the street. The left machine has no way to be right, so
# it makes nearly every point a support vector.
#
# How large is the space that the RBF kernel stands for? A rule of algebra helps to measure it: $m$ points in a space
# of $F$ dimensions span at most $F$ of them, so their Gram matrix has **rank** $F$ at most, however many they are.
# (Lesson 00 has rank.) **Predict.** For 25, 50, 100 and 200 points of the plane: the rank with a polynomial of degree
# three? With the RBF kernel?

# %%
guess_ranks_of_degree_3, guess_ranks_of_rbf = [None] * 4, [None] * 4

# %% name="how_many_dimensions" tags=["compare"]
numbers, ranks = (25, 50, 100, 200), {}
many = 2 * torch.rand(200, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64) - 1
kinds = {"linear": kernels.linear_kernel, "degree 2": square, "degree 3": partial(square, degree=3),
         "RBF": partial(kernels.rbf_kernel, gamma=200.0)}
for name, kernel in kinds.items():
    ranks[name] = [kernels.gram_rank(kernel(many[:m], many[:m])) for m in numbers]
    print(f"{name:9s} {ranks[name]}")
assert ranks["linear"] == [2] * 4 and ranks["degree 2"] == [6] * 4
assert ranks["degree 3"] == [math.comb(5, 3)] * 4 == [10] * 4 and ranks["RBF"] == list(numbers)
figure, (axes,) = plots.new_figure(width=5.6, height=3.2)
curves = {name: (numbers, row) for name, row in ranks.items()}
plots.line_chart(axes, curves, "Dimensions that m points span", "points", "rank of the Gram matrix")
plots.show(figure, alt="Level lines at 2, 6 and 10; for RBF a rising line: each new point brings a new dimension")
print("you said", guess_ranks_of_degree_3, guess_ranks_of_rbf)

# %% [markdown]
# With the RBF kernel every new point brings a new dimension, and no number of points exhausts them: the space is
# **infinite-dimensional**. One can write its coordinates down, for points on a line. The exponential is a series,
#
# $$e^{-\gamma (x - y)^2} = e^{-\gamma x^2} \, e^{-\gamma y^2} \sum_{k=0}^{\infty} \frac{(2 \gamma)^k}{k!} x^k y^k$$
#
# so the $k$-th coordinate is $e^{-\gamma x^2} \sqrt{(2\gamma)^k / k!} \; x^k$, and there is always one more. How many
# matter?

# %% name="the_series_never_ends" tags=["compare"]
on_a_line = torch.linspace(-1, 1, 201, dtype=torch.float64)
errors = {}
for gamma in (0.5, 2.0, 8.0):
    exact = kernels.rbf_kernel(on_a_line[:, None], on_a_line[:, None], gamma)
    features = kernels.rbf_features(on_a_line, gamma, 60)
    errors[f"γ = {gamma:g}"] = [(features[:, :n] @ features[:, :n].T - exact).abs().max().item() for n in range(1, 61)]
figure, (axes,) = plots.new_figure(width=6.4, height=3.2)
plots.line_chart(axes, {name: (range(1, 61), row) for name, row in errors.items()},
                 "What is missing, if the series is cut off", "coordinates", "largest error of the kernel")
axes.set(yscale="log")
plots.show(figure, alt="Three curves that fall ever more steeply from 1 to the rounding of float64, the larger gamma "
           "the later")
enough = {name: next(n for n, error in enumerate(row, 1) if error < 1e-6) for name, row in errors.items()}
print("coordinates for an error below 1e-6:", enough)
assert list(enough.values()) == sorted(enough.values()) and errors["γ = 0.5"][30] < 1e-12 < errors["γ = 8"][30]

# %% [markdown]
# Infinitely many, of which a few dozen matter, in one dimension and with wide bells. So mind what you measure: with
# wide bells the Gram matrix of 200 points has rank 200 in algebra and less in floating point, because the later
# coordinates lie below rounding.

# %% name="infinite_on_paper" tags=["compare"]
numeric = {gamma: kernels.gram_rank(kernels.rbf_kernel(many, many, gamma)) for gamma in (0.1, 1.0, 200.0)}
for gamma, rank in numeric.items():
    print(f"gamma {gamma:5.1f}: {'all 200' if rank == 200 else 'less than 150'} of 200 dimensions above rounding")
assert numeric[0.1] < numeric[1.0] < 150 and numeric[200.0] == 200
no_kernel = -torch.cdist(many, many)
lowest = torch.linalg.eigvalsh(no_kernel)[0].item()
print("minus the distance is no kernel: its smallest eigenvalue is below 0, and no inner product gives that")
assert lowest < -1 and torch.linalg.eigvalsh(kernels.rbf_kernel(many, many, 1.0))[0] > -1e-10

# %% [markdown]
# The last lines show what a function must have to be a kernel at all: no Gram matrix of it may have a negative
# eigenvalue (Mercer). Else there is no space in which it is an inner product.
#
# ### Myth and measurement: "more dimensions, more overfitting"
#
# The popular answer goes on: in so many dimensions everything can be parted, so it must overfit. The RBF kernel has
# infinitely many whatever γ is. If the dimension decided, γ could not matter.

# %% name="dimension_is_not_capacity" tags=["compare"]
gammas = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
shares = torch.zeros(3, len(gammas), 2)
for seed in range(3):
    draw = partial(patterns.two_circles, generator=torch.Generator().manual_seed(seed), spread=0.16)
    own, new = draw(60), draw(1000)
    for j, gamma in enumerate(gammas):
        machine = svm.fit_svm(*own, partial(kernels.rbf_kernel, gamma=gamma), penalty=10.0)
        shares[seed, j] = torch.tensor([svm.accuracy(machine, *own), svm.accuracy(machine, *new)])
figure, (axes,) = plots.new_figure(width=6.0, height=3.2)
own, new = (100 * shares.mean(0)).T.tolist()
curves = {"its own 60 points": (gammas, own), "1,000 new ones": (gammas, new)}
plots.line_chart(axes, curves, "The dimension is infinite everywhere in this picture", "γ", "% on the right side")
axes.set(xscale="log", ylim=(40, 105))
plots.show(figure, alt="On its own points the machine gets better with gamma; on new ones it is best between 1 and 10 "
           "and falls towards half beyond")
assert (shares[:, 2, 1] > 0.9).all() and (shares[:, 5, 0] > 0.99).all() and (shares[:, 5, 1] < 0.8).all()
print("γ = 1: more than nine in ten new points right; γ = 1000: its own all right, of new ones fewer than eight in ten")

# %% [markdown]
# Same dimension, opposite results. What decides is how the space is *used*: the width of the street against the
# spread of the points, which γ and C set. With narrow bells every point is at a right angle to every other. All are
# support vectors, and the machine has learnt them by heart.

# %% [markdown]
# ## Your functions at work
#
# Both halves in one go: moons coded by your VAE, then parted in its plane by an SVM with your kernel. It gets the
# codes of 24 moons and has to say of others whether they are about half lit. On the ring that is the XOR from above.

# %% name="your_functions_at_work" tags=["compare"]
with mine.active():
    coder = autoencoder.train_coder(known, seed=3)
    few = (torch.arange(24) + 0.5) / 24
    few_codes, new_codes = (coder.encode(moons.draw_moons(p))[0].double() for p in (few, shown_phases))
    few_labels = torch.where((moons.lit_share(few) - 0.5).abs() < 0.25, 1.0, -1.0).double()
    shares = {name: svm.accuracy(svm.fit_svm(few_codes, few_labels, kernel, penalty=10.0), new_codes, is_near_half[1])
              for name, kernel in (("linear", kernels.linear_kernel),
                                   ("RBF", lambda a, b: kernels.rbf_kernel(a, b, 2.0)))}
ran = {name.rpartition(".")[2]: (whose, calls) for name, whose, calls in mine.table().rows}
for name in ("kl_gaussian", "reparameterize", "negative_elbo", "rbf_kernel"):
    print(f"{name:15s} {ran[name][0]}")
    assert ran[name][1] > 0
assert shares["RBF"] > 0.85 and shares["linear"] < 0.8
print("of 120 unseen moons the RBF kernel tells more than 85 % right, a straight line fewer than 80 %")

# %% [markdown]
# ## Explore
#
# Choose points, a kernel, its γ and the penalty C. Find, for the two circles, the smallest γ that parts them. Then
# make γ so large that the machine knows its own 60 points by heart and nothing else. What does a small C do about it?
# And which degree do the crescents need?

# %% name="explorer"
from minillm.course.scenes import margin_explorer

Explorer(
    margin_explorer.margin_picture,
    "Sixty points on two circles, the border that an SVM with an RBF kernel finds, and its shares of right answers",
    **margin_explorer.margin_controls(),
)

# %% [markdown]
# ## Interview corner
#
# Answer aloud before you unfold. Each answer names the cell that proves it.

# %% [markdown] interview="18"

# %% [markdown]
# ## Remember
#
# 1. V is for variational: the encoder gives a bell that stands for the posterior, the loss is a bound on log p(x).
#    The KL says where codes lie, the noise makes the decoder smooth there, and the reparameterization lets a gradient
#    through. On neither KL nor noise alone can you rely.
# 2. Both terms of the bound are sums. Average one of them over pixels, and the code falls silent.
# 3. A kernel is an inner product in a space that nobody enters. Polynomials have $\binom{n+d}{d}$ dimensions, RBF has
#    infinitely many; what decides is the width of the street, not their number.
#
# **Where next.** Attention weights are a kernel too, normalized by row: lesson 03 writes out its space and calls it
# linear attention. The score function comes back in lesson 15. Lesson 17 asks you everything.
