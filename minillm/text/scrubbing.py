r"""Scrubbing: find personal data by its form, and put a mark in its place."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class PersonalSpan:
    r"""One piece of personal data in a text.

    Args:
        start: place of its first character.
        end: place after its last.
        kind: "email", "phone", "identity", "card" or "address" (of a computer); "name" where names are known.
    Lesson: 01.
    """

    start: int
    end: int
    kind: str


# In the order of trust: what an earlier pattern has taken, a later one does not get. No \b beside digits or letters: in
# Python a Chinese character is a letter too, so there is no word boundary between 邮箱 and the address that follows.
PATTERNS = (
    ("email", re.compile(r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]+@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}")),
    ("identity", re.compile(r"(?<!\d)[1-9]\d{5}(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])\d{3}[\dXx](?!\d)")),
    ("card", re.compile(r"(?<![\d+])\d(?:[ -]?\d){12,18}(?!\d)")),
    ("address", re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.]*\d)")),
    ("phone", re.compile(r"(?<![\d+])(?:\+?86[ -]?)?1[3-9]\d(?:[ -]?\d{4}){2}(?!\d)")),
    ("phone", re.compile(r"(?<![\d+])\+\d{1,3}[ -]\d{2,4}(?:[ -]\d{2,4}){1,3}(?!\d)")),
    ("phone", re.compile(r"(?<!\d)\(?\d{3}\)?[ -]\d{3}-\d{4}(?!\d)")),
)


def luhn_sum_fits(number: str) -> bool:
    r"""Check the last digit of a card number, as every cash desk does.

    From the right, every second digit counts double (of a product above 9, its digits); the sum ends in 0.

    Args:
        number: digits; spaces and dashes are passed over.
    Returns: whether the number can be one of a card. One random number in ten can.
    Source: ISO/IEC 7812-1, annex B.
    Lesson: 01.
    """
    digits = [int(sign) for sign in number if sign.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def identity_check_sign(first_17: str) -> str:
    r"""The last sign of a Chinese identity number, which follows from the 17 digits before it.

    Args:
        first_17: the digits.
    Returns: "0" to "9" or "X".
    Source: GB 11643-1999: weights 2^(17 - i) mod 11, ISO 7064 MOD 11-2.
    Lesson: 01.
    """
    total = sum(int(digit) * pow(2, 17 - i, 11) for i, digit in enumerate(first_17))
    return "10X98765432"[total % 11]


def find_personal_data(text: str) -> list[PersonalSpan]:
    r"""Find e-mail addresses, phone, identity and card numbers, and addresses of computers, by their form.

    Where a number carries a check digit, it is checked: an order number of 16 digits is no card. Names have no form; to
    find them takes a model that was trained for it.

    Args:
        text: any text.
    Returns: what was found, in the order of the text; no two overlap.
    Lesson: 01.
    """
    found: list[PersonalSpan] = []
    for kind, pattern in PATTERNS:
        for match in pattern.finditer(text):
            new = PersonalSpan(match.start(), match.end(), kind)
            taken = any(old.start < new.end and new.start < old.end for old in found)
            if not taken and _can_be(kind, match.group()):
                found.append(new)
    return sorted(found)


def _can_be(kind: str, text: str) -> bool:
    if kind == "identity":
        return identity_check_sign(text[:17]) == text[17].upper()
    if kind == "card":
        return luhn_sum_fits(text)
    if kind == "address":
        return all(int(part) < 256 for part in text.split("."))
    return True


def scrub(text: str, findings: Iterable[PersonalSpan]) -> str:
    r"""Put a mark such as <EMAIL> in the place of each finding.

    A mark keeps the sentence a sentence: a model learns that an address stands there, and not whose.

    Args:
        text: the text.
        findings: what to take out; no two overlap.
    Returns: the text without them.
    Raises:
        ValueError: if two findings overlap.
    Lesson: 01.
    """
    pieces, done = [], 0
    for finding in sorted(findings):
        if finding.start < done:
            raise ValueError(f"findings overlap at place {finding.start}; keep one of the two")
        pieces += [text[done : finding.start], f"<{finding.kind.upper()}>"]
        done = finding.end
    return "".join([*pieces, text[done:]])


def precision_and_recall(found: Collection, true: Collection) -> tuple[float, float]:
    r"""Measure a search: how much of what it found is right, and how much of what is there it found.

    Args:
        found: what the search gave; each counts once.
        true: what it should have given.
    Returns: precision and recall, 0.0 to 1.0; 1.0 for a share of nothing.
    Lesson: 01.
    """
    hits = len(set(found) & set(true))
    return hits / len(set(found)) if found else 1.0, hits / len(set(true)) if true else 1.0
