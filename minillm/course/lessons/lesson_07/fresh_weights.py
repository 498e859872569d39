r"""The exercise about fresh weights."""

import torch

from minillm.course.exercise import Exercise, Mistake
from minillm.course.lessons.lesson_07.initialisation import (
    OF_A_SAMPLE,
    by_fan_in,
    expected_measurements,
    from_the_global_generator,
    init_by,
    init_cases,
    measured,
    normal_in_place,
    uniform,
)

INIT_WEIGHTS = Exercise(
    id="model.init.init_weights",
    lesson="07",
    title="Fresh weights",
    task="Give the starting value of one parameter, by its name:\n\n"
    "- a bias is 0, a norm's weight is 1;\n"
    "- `tok_emb` and `pos_emb` are normal with `embedding_std`, every other matrix with `linear_std`;\n"
    "- the two matrices at the end of a residual branch, `o_proj` and `down_proj`, are special: with "
    "`residual=\"scaled\"` their standard deviation is `linear_std` divided by the root of the number of branches in "
    "the model, with `\"zero\"` they are 0, with `\"plain\"` they are like any other matrix. Another word is a "
    "ValueError.",
    difficulty=2,
    minutes=15,
    points=4,
    seed=74,
    hints=(
        "Sort the names first: `name.endswith(...)` and `\"norm\" in name` are all you need. Which question must be "
        "asked first, that about the bias or that about the norm?",
        "How many branches does a model of L blocks have? Two a block, and their answers add up in the stream.",
        "The standard deviation of a sum of n independent terms is sqrt(n) times that of one. What must one term be "
        "divided by, so that the sum is as large as a single term?",
        "`torch.randn(*shape, generator=generator)` has standard deviation 1: multiply. And look whether `residual` is "
        "one of the three words before anything else.",
    ),
    cases=init_cases,
    oracle=expected_measurements,
    probe=measured,
    other_style=init_by(draw=normal_in_place),
    tolerance=OF_A_SAMPLE,
    mistakes=(
        Mistake(
            "divided by 2L",
            init_by(shrink=lambda n_layers: 1 / (2 * n_layers)),
            "You divide by 2L. Variances add up, not standard deviations: a sum of 2L independent terms is sqrt(2L) "
            "times as large as one, so divide by the root.",
        ),
        Mistake(
            "divided by the root of L",
            init_by(shrink=lambda n_layers: n_layers**-0.5),
            "You count one branch a block. There are two, attention and FFN, so 2L terms are added to the stream: "
            "divide by sqrt(2L).",
        ),
        Mistake(
            "depth ignored",
            init_by(shrink=lambda n_layers: 1.0),
            "With residual=\"scaled\", o_proj and down_proj are as large as every other matrix. Divide their standard "
            "deviation by sqrt(2L), so that the stream does not grow with the number of layers.",
        ),
        Mistake(
            "down_proj forgotten",
            init_by(ends=("o_proj",)),
            "o_proj is right, down_proj is not. A block has two residual branches, and down_proj is the last matrix of "
            "the second.",
        ),
        Mistake(
            "every matrix scaled",
            init_by(ends=("_proj", "lm_head")),
            "You make every matrix smaller. Only the last matrix of a branch writes into the stream (o_proj, "
            "down_proj): one small factor on the way is enough.",
        ),
        Mistake(
            "embeddings like matrices",
            init_by(stds=lambda embedding, linear: (linear, linear)),
            "tok_emb and pos_emb have a standard deviation of their own, `embedding_std`.",
        ),
        Mistake(
            "variance for standard deviation",
            init_by(stds=lambda embedding, linear: (embedding**0.5, linear**0.5)),
            "You took `std` for a variance: your numbers have its root as their standard deviation.",
        ),
        Mistake(
            "standard deviation from the shape",
            init_by(draw=lambda shape, std, g: by_fan_in(shape, std, g) if std else torch.zeros(*shape)),
            "You take 1 / sqrt(columns), the rule of Xavier and Kaiming. Here the standard deviation is given: "
            "`embedding_std` and `linear_std`, as in GPT-2.",
        ),
        Mistake(
            "biases random",
            init_by(bias=lambda shape, std, g: torch.randn(*shape, generator=g) * std),
            "Your biases are random. Start them at 0: a bias is for what the data ask for, and nothing needs to break "
            "a symmetry there, the matrices do that.",
        ),
        Mistake(
            "norm weights zero",
            init_by(norm_weight=lambda shape, std, g: torch.zeros(*shape)),
            "A norm's weight is multiplied with what it has normalized: at 0 every branch is cut off, and the logits "
            "of the fresh model are all 0. Start it at 1.",
        ),
        Mistake(
            "norm weights random",
            init_by(norm_weight=lambda shape, std, g: torch.randn(*shape, generator=g) * std),
            "You treat a norm's weight like a matrix. It is a gain that multiplies each feature: start it at 1, so "
            "that the norm at first only normalizes.",
        ),
        Mistake(
            "a norm's bias is 1",
            init_by(norm_weight=lambda shape, std, g: torch.ones(*shape), norm_bias_too=True),
            "The *bias* of a norm becomes 1 as well: its name holds \"norm\" too. Ask about the bias first.",
        ),
        Mistake(
            "generator ignored",
            init_by(draw=from_the_global_generator),
            "You draw from torch's global generator, so that the same seed gives another model each time. Hand the "
            "`generator` on: torch.randn(*shape, generator=generator).",
        ),
        Mistake(
            "uniform",
            init_by(draw=uniform),
            "The spread is right, but the distribution is uniform, with nothing beyond 1.73 standard deviations. Draw "
            "from the normal distribution: torch.randn.",
        ),
        Mistake(
            "unknown word accepted",
            init_by(known=()),
            "residual=\"tiny\" is taken without a word. A typing error in a configuration would silently train another "
            "model: raise a ValueError that names the three words.",
        ),
    ),
)
