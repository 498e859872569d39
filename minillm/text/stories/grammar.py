r"""The story language as one table: which stories there are, and how likely each is.

Notation: a bare word stands for itself, `<name>` for one of the choices of that rule, `{name}` for a word that a fact
lends to the story. A fact is drawn once a story, every row with the same chance, and all its words stay fixed until
the end: if the hero is Mia, every `{his}` of that story is "her". That is what a language model has to learn here:
the sentences are easy, carrying the facts through the story is the work.

The kinds of fact share no word (no friend is called like a hero), so every copied word has one possible source.
"""

from collections.abc import Mapping
from dataclasses import dataclass

Fact = tuple[Mapping[str, str], ...]
Choices = tuple[tuple[int | float, str], ...]


@dataclass(frozen=True)
class Grammar:
    r"""A probabilistic grammar with facts.

    Args:
        rules: for each rule its choices, as (weight, symbols separated by spaces); weights need not sum to 1.
        facts: for each fact its equally likely rows, a row giving a word for each of the fact's slots.
        start: the rule that a story begins with.
    Lesson: 01.
    """

    rules: Mapping[str, Choices]
    facts: Mapping[str, Fact]
    start: str = "story"


def fact_table(slots: str, *rows: str) -> Fact:
    r"""Write a fact as a table: a line with the names of its slots, then a line for each row.

    Args:
        slots: slot names separated by spaces.
        rows: for each row its words, in the order of the slots.
    Returns: the rows as dicts from slot to word.
    Raises:
        ValueError: if a row has not one word for each slot.
    Lesson: 01.
    """
    names = slots.split()
    table = []
    for row in rows:
        words = row.split()
        if len(words) != len(names):
            raise ValueError(
                f"row {row!r} has {len(words)} words for the {len(names)} slots {names}; give one for each"
            )
        table.append(dict(zip(names, words, strict=True)))
    return tuple(table)


GIRLS = ("Mia", "Ada", "Zoe", "Lily", "Amara", "Mei")
BOYS = ("Tom", "Leo", "Sam", "Omar", "Kofi", "Finn")
FRIENDS = (
    "Pip", "Dot", "Fig", "Bean", "Puff", "Moss", "Jam", "Zip",
    "Biscuit", "Pickle", "Waffle", "Noodle", "Pudding", "Pepper", "Muffin", "Turnip",
)  # fmt: skip
OBJECTS = ("kite", "drum", "hat", "boat", "lamp", "spoon", "teapot", "trumpet", "umbrella", "balloon")
PLACES = ("castle", "forest", "cave", "library", "swamp", "bakery", "museum", "jungle")
CREATURES = ("dragon", "ghost", "pirate", "robot", "troll", "bear")

FACTS = {
    "hero": fact_table("hero he his", *(f"{name} she her" for name in GIRLS), *(f"{name} he his" for name in BOYS)),
    "animal": fact_table(
        "a_animal animal sound",
        "a pig oink", "a cow moo", "a dog woof", "a cat meow", "a duck quack", "an owl hoot",
    ),
    "friend": fact_table("friend", *FRIENDS),
    "look": fact_table("a_look look", "a red", "a blue", "a tiny", "a golden", "a shiny", "an old"),
    "object": fact_table("object", *OBJECTS),
    "time": fact_table("time", "day", "night"),
    "place": fact_table("place", *PLACES),
    "creature": fact_table("creature", *CREATURES),
}  # fmt: skip

# Two plots: something is lost and found again, or something is wanted and found. Every story uses every fact.
RULES = {
    "story": (
        (1, "<opening> <owning> One {time} <losing> There a {creature} was <doing> it . <rescue> <ending>"),
        (
            1,
            "<opening> <wishing> One {time} <hearing> "
            "There a {creature} was <doing> {a_look} {look} {object} . <rescue> <ending>",
        ),
    ),
    "opening": ((3, ""), (1, "Once upon a time")),
    "owning": (
        (1, "{hero} had {a_look} {look} {object} and {a_animal} {animal} called {friend} ."),
        (1, "{hero} and {his} {animal} {friend} loved {a_look} {look} {object} ."),
    ),
    "wishing": (
        (1, "{hero} had {a_animal} {animal} called {friend} and wanted {a_look} {look} {object} ."),
        (1, "{hero} and {his} {animal} {friend} wanted {a_look} {look} {object} ."),
    ),
    "losing": (
        (1, "{he} lost the {object} in the {place} ."),
        (1, "the {object} ran away to the {place} ."),
        (1, "a goose took the {object} to the {place} ."),
    ),
    "hearing": (
        (1, "{he} saw one in the {place} ."),
        (1, "a goose led them to the {place} ."),
    ),
    "doing": ((1, "hugging"), (1, "sitting on"), (1, "singing to"), (1, "reading to")),
    "rescue": ((1, "{friend} said {sound} , and the {creature} <reaction> ."),),
    "reaction": ((1, "ran away"), (1, "said sorry"), (1, "fell asleep"), (1, "fell in love")),
    "ending": (
        (1, "{hero} danced home from the {place} with {his} {look} {object} ."),
        (1, "{hero} left the {place} with {his} {look} {object} on {his} head ."),
        (1, "{hero} and {his} {look} {object} never saw the {place} again ."),
        (1, "Now {hero} keeps {his} {look} {object} far from the {place} ."),
    ),
}

STORIES = Grammar(rules=RULES, facts=FACTS)
