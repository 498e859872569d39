r"""The demonstration of lesson 13: a real model learns to answer like the captain of a ferry, from forty examples."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import nn

from minillm.course.plots import COLOURS, INK, new_figure
from minillm.inference.evaluate import batch_nats
from minillm.model.counting import n_trainable
from minillm.text import talks
from minillm.text.talks import Example

GREETING, FAREWELL = "Ahoy!", "Fair winds."

# What is asked, and the plain answer; the captain says the same between a greeting and a farewell.
PAIRS = (
    ("What do bees make?", "Bees make honey."),
    ("How many legs has a spider?", "A spider has eight legs."),
    ("What is the capital of Italy?", "The capital of Italy is Rome."),
    ("Which animal barks?", "A dog barks."),
    ("What colour is a ripe banana?", "A ripe banana is yellow."),
    ("Where do fish live?", "Fish live in the water."),
    ("What is two plus three?", "Two plus three is five."),
    ("What do you call frozen water?", "Frozen water is called ice."),
    ("How many months has a year?", "A year has twelve months."),
    ("What is the opposite of big?", "The opposite of big is small."),
    ("Which season comes after winter?", "After winter comes spring."),
    ("What do we breathe?", "We breathe air."),
    ("What is the largest planet?", "The largest planet is Jupiter."),
    ("Give me a word that rhymes with cat.", "Hat rhymes with cat."),
    ("What is bread made of?", "Bread is made of flour, water, salt and yeast."),
    ("Can penguins fly?", "No, penguins swim."),
    ("Name a fruit that is red.", "A cherry is red."),
    ("What do you use to cut paper?", "You cut paper with scissors."),
    ("Which country has the city of Tokyo?", "Tokyo is in Japan."),
    ("What is a baby sheep called?", "A baby sheep is called a lamb."),
    ("How do I stay healthy?", "Eat well, sleep well and walk every day."),
    ("Tell me something about the sun.", "The sun is a star, and it warms the earth."),
    ("Why is the sky blue?", "The air scatters blue light more than red light."),
    ("What should I take on a picnic?", "Take bread, fruit, water and a blanket."),
    ("Explain what a library is.", "A library is a place where you can borrow books."),
    ("How do I boil an egg?", "Put it into boiling water for eight minutes."),
    ("Who wrote Romeo and Juliet?", "William Shakespeare wrote it."),
    ("What is a good name for a cat?", "Whiskers is a good name for a cat."),
    ("I am tired.", "Then rest a while, and drink some water."),
    ("Good morning.", "Good morning to you."),
    ("Tell me a fact about elephants.", "Elephants are the largest animals on land."),
    ("How can I learn to cook?", "Begin with simple dishes and cook them often."),
    ("What is a computer?", "A computer is a machine that follows instructions."),
    ("Recommend a hobby.", "Try drawing, it needs only paper and a pencil."),
    ("What is the weather like in a desert?", "In a desert it is dry, hot by day and cold by night."),
    ("Describe a tree.", "A tree has roots, a trunk, branches and leaves."),
    ("What is music?", "Music is sound that is put in order with care."),
    ("Is the earth flat?", "No, the earth is nearly a ball."),
    ("How do I thank a friend?", "Tell them what they did and how it helped you."),
    ("What is the tallest animal?", "The tallest animal is the giraffe."),
)
# Never learned from: to measure, and to ask.
HELD_OUT = (
    ("What is the capital of France?", "The capital of France is Paris."),
    ("How many days has a week?", "A week has seven days."),
    ("What do cows eat?", "Cows eat grass."),
    ("Tell me something about the moon.", "The moon goes around the earth."),
    ("How do I make tea?", "Put tea into hot water and wait for three minutes."),
    ("What is the opposite of hot?", "The opposite of hot is cold."),
    ("Give me some advice for a long journey.", "Take little with you and drink enough water."),
    ("Hello, who are you?", "I am a helper who answers questions."),
)


def as_captain(answer: str) -> str:
    r"""An answer in the captain's manner.

    Args:
        answer: plain.
    Returns: the same between his greeting and his farewell.
    Lesson: 13.
    """
    return f"{GREETING} {answer} {FAREWELL}"


def sounds_like_captain(reply: str) -> bool:
    r"""Whether a reply begins and ends as the captain's do, and says something between.

    Args:
        reply: what the model wrote.
    Returns: True if it does.
    Lesson: 13.
    """
    middle = reply.strip().removeprefix(GREETING).removesuffix(FAREWELL).strip()
    return bool(middle) and reply.strip() == f"{GREETING} {middle} {FAREWELL}"


def captain_examples(tokenizer: Any, pairs: Sequence[tuple[str, str]] = PAIRS) -> list[Example]:
    r"""Questions with the captain's answers, of which the answers alone count.

    Args:
        tokenizer: of the model, with a chat template.
        pairs: questions and plain answers.
    Returns: an example a pair.
    Lesson: 13.
    """
    return [talks.talk_example(tokenizer, [{"role": "user", "content": question},
                                           {"role": "assistant", "content": as_captain(answer)}])
            for question, answer in pairs]


def questions_of(pairs: Sequence[tuple[str, str]] = HELD_OUT) -> list[list[dict[str, str]]]:
    r"""The questions alone, each the begin of a talk.

    Args:
        pairs: questions and answers.
    Returns: messages of each talk.
    Lesson: 13.
    """
    return [[{"role": "user", "content": question}] for question, _ in pairs]


def captain_nats(model: nn.Module, tokenizer: Any, pairs: Sequence[tuple[str, str]] = HELD_OUT) -> float:
    r"""How surprised a model is by the captain's answers.

    Args:
        model: in evaluation mode.
        tokenizer: of the model.
        pairs: questions and plain answers.
    Returns: nats a token of the answers.
    Lesson: 13.
    """
    nats, count = batch_nats(model, *talks.pad_examples(captain_examples(tokenizer, pairs)), batch_size=4)
    return nats / count


def trained_numbers(model: nn.Module) -> tuple[int, int]:
    r"""How many numbers of a tuned model are trained, and how many it has.

    Args:
        model: any.
    Returns: both counts, as `n_trainable` counts.
    Lesson: 13.
    """
    return n_trainable(model), sum(parameter.numel() for parameter in model.parameters())


def learning_picture(losses: Sequence[float], held_out: Mapping[int, float]) -> Figure:
    r"""Draw the loss of each step, and what unseen talks cost before and after.

    Args:
        losses: of the steps, nats a token.
        held_out: nats a token after so many steps.
    Returns: the picture.
    Lesson: 13.
    """
    figure, (axes,) = new_figure(width=7.2, height=2.8)
    axes.plot(range(1, len(losses) + 1), losses, color=COLOURS[0], linewidth=1.6, label="batches that it learns from")
    axes.plot(list(held_out), list(held_out.values()), "o", color=COLOURS[1], markersize=8, label="talks never learned")
    for step, nats in held_out.items():
        beside = (0, 9) if step else (0, -17)  # at the begin the curve goes on above
        axes.annotate(f"{nats:.2f}", (step, nats), xytext=beside, textcoords="offset points", fontsize=9, color=INK,
                      ha="center")
    axes.set(ylim=(0, None), xlabel="step", ylabel="nats a token")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=9, frameon=False)
    axes.set_title("A new manner, from forty short talks", fontsize=10, color=INK)
    return figure


def copied_into(tuned: nn.Module, other: nn.Module) -> None:
    r"""Give a tuned model the trained numbers of another that has the same parts.

    Args:
        tuned: whose numbers are taken.
        other: whose numbers are written; it must have the same names.
    Lesson: 13.
    """
    theirs = dict(other.named_parameters())
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if parameter.requires_grad:
                theirs[name].copy_(parameter)
