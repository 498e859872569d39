"""Scrubbing on texts whose personal data is known, and by hand where a pattern can go wrong."""

import random
import re

import pytest

from minillm.text.personal import MAKERS, SENTENCES, personal_text
from minillm.text.scrubbing import (
    PersonalSpan,
    find_personal_data,
    identity_check_sign,
    luhn_sum_fits,
    precision_and_recall,
    scrub,
)


def test_known_answers_are_where_they_are_said_to_be(fresh_seed: int):
    text, true = personal_text(200, random.Random(fresh_seed))
    assert text.count("\n") == 200 and true == sorted(true)
    for finding in true:
        value = text[finding.start : finding.end]
        assert value.strip() == value and "\n" not in value
        if finding.kind == "identity":
            assert re.fullmatch(r"\d{17}[\dX]", value)
    assert all(re.findall(r"{(\w+)}", sentence) and set(re.findall(r"{(\w+)}", sentence)) <= set(MAKERS)
               for sentence in SENTENCES)  # fmt: skip


def test_every_plain_form_is_found_and_no_more_is_taken(fresh_seed: int):
    text, true = personal_text(1500, random.Random(fresh_seed))
    found = find_personal_data(text)
    plain = {
        f for f in true if f.kind != "name" and (any(s.isdigit() for s in text[f.start : f.end]) or f.kind == "email")
    }
    plain = {f for f in plain if f.kind != "email" or "@" in text[f.start : f.end]}
    plain = {f for f in plain if f.kind != "phone" or text[f.end - 1] in "0123456789"}
    plain = {f for f in plain if text[f.start : f.end].isascii()}
    assert plain <= set(found)
    for kind in ("email", "phone", "identity"):
        assert {f for f in found if f.kind == kind} <= plain, kind
    hidden_or_named = set(true) - plain
    assert hidden_or_named and not hidden_or_named & set(found)


def test_scrubbed_text_holds_a_mark_for_each_finding(fresh_seed: int):
    text, true = personal_text(100, random.Random(fresh_seed))
    clean = scrub(text, true)
    for finding in true:
        assert text[finding.start : finding.end] not in clean
    assert len(re.findall("<[A-Z]+>", clean)) == len(true)
    assert scrub("a b c", [PersonalSpan(2, 3, "name")]) == "a <NAME> c" and scrub("a", []) == "a"
    with pytest.raises(ValueError, match="overlap at place 1"):
        scrub("abc", [PersonalSpan(0, 2, "name"), PersonalSpan(1, 3, "name")])


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("邮箱mia@example.com，电话13812345678。", ["email", "phone"]),
        ("mia@example.com.", ["email"]),
        ("4111 1111 1111 1111", ["card"]),
        ("4111 1111 1111 1112", []),
        ("192.168.0.1 and 300.1.1.1 and 1.2.3", ["address"]),
        ("version 3.12.4 costs 19.99", []),
        ("113812345678", []),
        ("+86 138-1234-5678", ["phone"]),
        ("11010519491231002X", ["identity"]),
        ("110105194912310021", []),
        ("@example.com mia@", []),
    ],
)
def test_edges_of_the_patterns(text: str, kinds: list[str]):
    assert [finding.kind for finding in find_personal_data(text)] == kinds


def test_check_digits(fresh_seed: int):
    rng = random.Random(fresh_seed)
    number = "".join(rng.choices("0123456789", k=15))
    assert sum(luhn_sum_fits(number + last) for last in "0123456789") == 1
    assert luhn_sum_fits("79927398713") and not luhn_sum_fits("79927398710")
    assert identity_check_sign("11010519491231002") == "X"
    first = "".join(rng.choices("0123456789", k=17))
    weighted = sum(int(d) * 2 ** (17 - i) for i, d in enumerate(first))
    last = identity_check_sign(first)
    assert (weighted + (10 if last == "X" else int(last))) % 11 == 1


def test_precision_and_recall_by_hand():
    assert precision_and_recall([1, 2, 3], [2, 3, 4, 5]) == (2 / 3, 0.5)
    assert precision_and_recall([], [1]) == (1.0, 0.0) and precision_and_recall([1], []) == (0.0, 1.0)
