r"""A talk as one text."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from minillm.course.exercise import Exercise, Mistake
from minillm.course.judge.draw import Draw

Case = tuple[tuple[Any, ...], dict[str, Any]]
Said = list[tuple[str, str]]
WORDS = "kite red lost found garden river seven blue window paper".split()


def spoken(draw: Draw, *roles: str) -> list[dict[str, str]]:
    r"""Messages of some roles in which something different is said each time."""
    return [{"role": role, "content": " ".join(draw.choice(WORDS) for _ in range(draw.size(2, 5))) + f" {i}?"}
            for i, role in enumerate(roles)]


def talk_cases(draw: Draw) -> Iterator[Case]:
    yield ([{"role": "user", "content": f"Who is {draw.choice(WORDS)}?"}], True), {}
    yield (spoken(draw, "system", "user", "assistant", "user"), True), {}
    yield (spoken(draw, "user", "assistant"),), {}
    yield (spoken(draw, "user", "assistant", "user"), True, "You are brief."), {}
    yield (spoken(draw, "system", "user"), True, "You are brief."), {}
    yield (spoken(draw, "user", "system"), False, "You are brief."), {}
    yield ([{"role": "user", "content": f"\n  def {draw.choice(WORDS)}():\n    pass\n"}],), {}
    yield ([], True, "You are brief."), {}
    yield (spoken(draw, "tool", "user"),), {"add_generation_prompt": True}
    yield ([*spoken(draw, "user"), {"role": "user", "content": None}],), {}  # to be refused
    yield ([{"role": "user"}],), {}  # to be refused


def require_strings(messages: Sequence[Mapping[str, Any]]) -> Said:
    said = [(message.get("role"), message.get("content")) for message in messages]
    for pair in said:
        if not all(isinstance(part, str) for part in pair):
            raise ValueError(f"a message has no role or no content: {pair}")
    return said


def line_by_line(
    messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False, default_system: str | None = None
) -> str:
    r"""Put the pieces of a talk into a list, one mark after another."""
    said, pieces = require_strings(messages), []
    if said and default_system is not None and said[0][0] != "system":
        pieces += ["<|im_start|>", "system", "\n", default_system, "<|im_end|>", "\n"]
    for role, content in said:
        pieces += ["<|im_start|>", role, "\n", content, "<|im_end|>", "\n"]
    if add_generation_prompt:
        pieces += ["<|im_start|>", "assistant", "\n"]
    return "".join(pieces)


def first_system(said: Said, default: str | None) -> Said:
    missing = bool(said) and said[0][0] != "system" and default is not None
    return [("system", default or ""), *said] if missing else said


def talk_written(
    form: str = "<|im_start|>{role}\n{content}<|im_end|>\n",
    last: str = "<|im_start|>assistant\n",
    ask: Callable[[bool], bool] = lambda wanted: wanted,
    system: Callable[[Said, str | None], Said] = first_system,
    change: Callable[[str, str], tuple[str, str]] = lambda role, content: (role, content),
    require: Callable[[Sequence[Mapping[str, Any]]], Said] = require_strings,
) -> Callable[..., str]:
    r"""A talk written with one thing done in another way."""

    def talk(
        messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False, default_system: str | None = None
    ) -> str:
        text = ""
        for role, content in system(require(messages), default_system):
            role, content = change(role, content)
            text += form.replace("{role}", role).replace("{content}", content)
        return text + (last if ask(add_generation_prompt) else "")

    return talk


APPLY_CHAT_TEMPLATE = Exercise(
    id="text.chat_template.apply_chat_template",
    lesson="16",
    title="A talk as one text",
    task="A model that answers was trained on talks in one form, and knows no other. This one's form: each message is "
    "`<|im_start|>`, the role, a line break, the content exactly as it is, `<|im_end|>`, a line break. With "
    "`add_generation_prompt` the text ends with the beginning of an answer: `<|im_start|>assistant` and a line break. "
    "If the *first* message is not the system's, and there is a `default_system`, that comes first, as a message of "
    "the system; an empty talk gets none. A message whose role or content is no string must be refused with a "
    "ValueError.",
    difficulty=1,
    minutes=10,
    points=2,
    seed=161,
    hints=(
        "Write the text for one message of the user, with the beginning of an answer, by hand. Count its line breaks: "
        "there are three.",
        "First make the list of messages complete, then write each in the same form, then add the beginning of the "
        "answer.",
        'An f-string does for a message: begin mark, role, `\\n`, content, end mark, `\\n`. `message.get("role")` '
        "gives None where there is no role.",
    ),
    cases=talk_cases,
    oracle=line_by_line,
    other_style=talk_written(),
    mistakes=(
        Mistake(
            "no end mark",
            talk_written(form="<|im_start|>{role}\n{content}\n"),
            "No message is closed. `<|im_end|>` is the token at which the model stops when it answers; where it is "
            "missing, the model cannot tell who is speaking.",
        ),
        Mistake(
            "no line break after a message",
            talk_written(form="<|im_start|>{role}\n{content}<|im_end|>"),
            "The line break after `<|im_end|>` is missing. One token off the form is enough to make answers worse, and "
            "nothing will tell you.",
        ),
        Mistake(
            "no line break after the role",
            talk_written(form="<|im_start|>{role} {content}<|im_end|>\n", last="<|im_start|>assistant "),
            "Role and content stand on one line. In the form that the model has learned a line break lies between.",
        ),
        Mistake(
            "answer never begun",
            talk_written(ask=lambda wanted: False),
            "`add_generation_prompt` makes no difference. Without the beginning of an answer the model may go on with "
            "anything, another question of the user's, say.",
        ),
        Mistake(
            "answer always begun",
            talk_written(ask=lambda wanted: True),
            "You begin an answer even where none is asked for. In texts to train on, the answers are there already.",
        ),
        Mistake(
            "answer ended",
            talk_written(last="<|im_start|>assistant\n<|im_end|>\n"),
            "You close the answer that the model is to write: it finds its own answer empty, and stops.",
        ),
        Mistake(
            "no default",
            talk_written(system=lambda said, default: said),
            "`default_system` is never written. The model was trained with such a message in front, and behaves "
            "otherwise without it.",
        ),
        Mistake(
            "default always",
            talk_written(system=lambda said, default: [("system", default), *said] if said and default else said),
            "The default comes even where the talk begins with the system's own message: now there are two, and they "
            "may contradict each other.",
        ),
        Mistake(
            "a system message anywhere",
            talk_written(system=lambda said, default: said if any(role == "system" for role, _ in said)
                    else first_system(said, default)),
            "A system message later in the talk keeps you from writing the default. The form looks at the first "
            "message alone.",
        ),
        Mistake(
            "default for an empty talk",
            talk_written(system=lambda said, default: first_system(said or [("", "")], default)[: len(said) + 1]
                    if said or default is not None else said),
            "Where there is no message, you write the default all the same. There is no first message to look at: the "
            "form gives nothing then but the beginning of the answer.",
        ),
        Mistake(
            "content trimmed",
            talk_written(change=lambda role, content: (role, content.strip())),
            "You strip white space off the content. For code, indentation is meaning: write it as it is.",
        ),
        Mistake(
            "roles renamed",
            talk_written(change=lambda role, content: (role if role in ("system", "user") else "assistant", content)),
            "You turn unknown roles into the assistant's. A tool's message, put into the model's mouth, is something "
            "that it has said itself: write the role as it is.",
        ),
        Mistake(
            "None written out",
            talk_written(require=lambda messages: [(str(m.get("role")), str(m.get("content"))) for m in messages]),
            "A message without a content is written as the word None, and the model answers to that. Raise a "
            "ValueError: whoever calls has made a mistake, and should hear of it.",
        ),
    ),
)
