r"""Made-up texts full of made-up personal data, with the places of all of it: the known answers to test scrubbing with.

Nothing here is anybody's: addresses end in the domains that are reserved for examples, numbers are random.
"""

import random
import string
from collections.abc import Callable

from minillm.text.scrubbing import PersonalSpan, identity_check_sign, luhn_sum_fits

FIRST = ("Mia", "Omar", "Zoe", "Tom", "Lena", "Ravi", "Ana", "Yusuf")
LAST = ("Keller", "Haddad", "Novak", "Price", "Lindt", "Rao", "Costa", "Demir")
FAMILY, GIVEN = "王李张刘陈杨赵黄", ("小雨", "建国", "美玲", "志强", "思远", "雅琴", "海涛", "若兰")
DOMAINS = ("example.com", "mail.example.org", "example.net", "post.example.com")

# {kind} is personal data that a pattern can know, names excepted; {hidden_...} is personal data in a form that it
# cannot; {decoy_...} is none at all, and looks like it.
SENTENCES = (
    "Please write to {email} before Friday.", "My number is {phone}, call me after six.",
    "{name} asked for a copy.", "You reach {name} at {email} or {phone}.",
    "The card {card} was declined.", "The server at {address} did not answer.",
    "Order {decoy_order} was sent on Monday.", "Update to version {decoy_version} first.",
    "Tickets cost {decoy_price} in all.", "The account was opened with {identity}.",
    "Write to {hidden_email}, without the spaces.", "Ring {hidden_phone}, she said.",
    "请发邮件到{email}，谢谢。", "我的手机号是{phone}，有事打电话。", "{name}的身份证号是{identity}。",
    "联系人{name}，邮箱{email}。", "订单号{decoy_order}已经发货。", "卡号{card}被拒绝了。",
    "软件版本是{decoy_version}。", "电话{hidden_phone}，白天打。",
)  # fmt: skip


def _digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choices(string.digits, k=count))


def _email(rng: random.Random) -> str:
    user = rng.choice(FIRST) + rng.choice((".", "_", "", "+")) + rng.choice(LAST) + rng.choice(("", _digits(rng, 2)))
    return f"{user.lower()}@{rng.choice(DOMAINS)}"


def _mobile(rng: random.Random) -> str:
    return "1" + rng.choice("3456789") + _digits(rng, 9)


def _phone(rng: random.Random) -> str:
    number = _mobile(rng)
    grouped = f"{number[:3]}-{number[3:7]}-{number[7:]}"
    abroad = f"+{rng.choice((44, 49, 33))} {rng.randint(10, 999)} {_digits(rng, 4)} {_digits(rng, 3)}"
    return rng.choice((number, grouped, "+86 " + number, abroad, f"({rng.randint(200, 999)}) 555-{_digits(rng, 4)}"))


def _identity(rng: random.Random) -> str:
    day = f"{rng.randint(1950, 2009)}{rng.randint(1, 12):02}{rng.randint(1, 28):02}"
    number = f"{rng.randint(110000, 659000)}{day}{_digits(rng, 3)}"
    return number + identity_check_sign(number)


def _card(rng: random.Random) -> str:
    start = rng.choice("45") + _digits(rng, 14)
    number = next(start + last for last in string.digits if luhn_sum_fits(start + last))
    return rng.choice((number, " ".join(number[i : i + 4] for i in range(0, 16, 4))))


def _order(rng: random.Random) -> str:
    return rng.choice((_digits(rng, 16), _digits(rng, 12), f"{rng.randint(10, 99)}-{_digits(rng, 6)}"))


MAKERS: dict[str, Callable[[random.Random], str]] = {
    "email": _email,
    "phone": _phone,
    "identity": _identity,
    "card": _card,
    "address": lambda rng: ".".join(str(rng.randint(1, 254)) for _ in range(4)),
    "name": lambda rng: rng.choice((f"{rng.choice(FIRST)} {rng.choice(LAST)}", rng.choice(FAMILY) + rng.choice(GIVEN))),
    "hidden_email": lambda rng: _email(rng).replace("@", " at ").replace(".", " dot "),
    "hidden_phone": lambda rng: "".join("零一二三四五六七八九"[int(digit)] for digit in _mobile(rng)),
    "decoy_order": _order,
    "decoy_version": lambda rng: ".".join(str(rng.randint(0, 30)) for _ in range(rng.choice((2, 3, 4)))),
    "decoy_price": lambda rng: f"{rng.randint(1, 99)}.{_digits(rng, 2)}",
}


def personal_text(n_sentences: int, rng: random.Random) -> tuple[str, list[PersonalSpan]]:
    r"""Write sentences with made-up personal data in them, and tell where it is.

    Args:
        n_sentences: how many.
        rng: the source of chance; it is advanced.
    Returns: the text, a sentence a line, and every piece of personal data in it, hidden forms included, in order.
    Lesson: 01.
    """
    text, true = "", []
    for _ in range(n_sentences):
        for fixed, gap, _, _ in string.Formatter().parse(rng.choice(SENTENCES)):
            text += fixed
            if gap is not None:
                value = MAKERS[gap](rng)
                if not gap.startswith("decoy"):
                    true.append(PersonalSpan(len(text), len(text) + len(value), gap.removeprefix("hidden_")))
                text += value
        text += "\n"
    return text, true
