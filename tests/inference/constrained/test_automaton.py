r"""The automaton against Python's own `re`: on given patterns, on random ones, and over all of Unicode."""

import re
import sys
import unicodedata

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.inference.constrained.automaton import DEAD, compile_regex
from minillm.inference.constrained.parsing import LAST, all_but, merged, parse_regex
from minillm.inference.constrained.utf8_ranges import utf8_ranges

PATTERNS = [
    "", "a", "abc", "a|b", "a|bc|", "(a|b)*c", "a+b?", "a{3}", "a{2,}", "a{1,3}b", "a{,2}", "a{0}b", "(ab){2,3}",
    "(a*)*b", "(a|a)*", "(?:ab|a)(bc)?", "()*a", "(|a)b", "((a|b){2}|c){2}", "a*?b+?c??", "x{", "a{b}", "{}",
    ".", ".*", "a.c", r"\d{3}-\d{4}", r"\w+@\w+\.(com|org)", r"\s\S", r"\D\W", r"\.\*\\", r"\ \-\#\&", "[.*+?|()]+",
    "[a-c]+", "[^a-c]*", "[]a]+", "[^]a]", "[-a]", "[a-]", r"[\d\-x]+", r"[^\W\d]+", "[ß-é]|é", r"[\b\n\t]",
    "[α-ωА-я]{2}", "日本?語*", "🙂+", r"\x41\u00e9\U0001F642",
]  # fmt: skip
SAMPLE = "abc01 -_.@\n\t*{}x日é🙂α\\]["


@pytest.mark.parametrize("pattern", PATTERNS)
def test_given_patterns_match_what_re_matches(pattern, fresh_seed):
    automaton, generator = compile_regex(pattern), torch.Generator().manual_seed(fresh_seed)
    compiled = re.compile(pattern, re.ASCII)
    texts = ["", *SAMPLE, *PATTERNS, "555-1234", "me@x.org", "aab", "aaab", "abab", "ababab", "abbc", "Aé🙂", "αЯ"]
    for _ in range(300):
        length = int(torch.randint(0, 6, (), generator=generator))
        texts.append("".join(SAMPLE[i] for i in torch.randint(0, len(SAMPLE), (length,), generator=generator)))
    wrong = [text for text in texts if automaton.matches(text) != bool(compiled.fullmatch(text))]
    assert not wrong


def random_patterns():
    r"""Trees of few letters, so that random texts match often."""
    letters = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", "é", r"\w"])
    repeats = st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{2,}"])
    return st.recursive(letters, lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"({'|'.join(parts)})"),
        st.tuples(inner, repeats).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
    ), max_leaves=6)


@given(random_patterns(), st.lists(st.text(alphabet="abé\n", max_size=6), max_size=20))
@settings(max_examples=150)
def test_random_patterns_match_what_re_matches(pattern, texts):
    automaton, compiled = compile_regex(pattern), re.compile(pattern, re.ASCII)
    for text in texts:
        assert automaton.matches(text) == bool(compiled.fullmatch(text)), (pattern, text)


def test_escaped_texts_match_themselves_only():
    text = "".join(chr(i) for i in range(32, 300))
    automaton = compile_regex(re.escape(text))
    assert automaton.matches(text) and not automaton.matches(text[:-1]) and not automaton.matches(text + "a")


@pytest.mark.parametrize("letter", list("dDsSwW") + ["."])
def test_classes_hold_the_characters_that_re_has(letter):
    pattern = letter if letter == "." else f"\\{letter}"
    (ranges,) = [parse_regex(pattern).ranges]
    got = {i for first, last in ranges for i in range(first, min(last, 3000) + 1)}
    assert got == {i for i in range(3001) if re.fullmatch(pattern, chr(i), re.ASCII)}


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 9)).map(lambda pair: (pair[0], sum(pair))), max_size=6))
def test_ranges_are_sets(ranges):
    inside = {i for first, last in ranges for i in range(first, last + 1)}
    joined = merged(ranges)
    assert {i for first, last in joined for i in range(first, last + 1)} == inside
    assert all(a[1] + 1 < b[0] for a, b in zip(joined, joined[1:], strict=False))
    rest = all_but(joined)
    assert merged([*joined, *rest]) == ((0, LAST),)
    assert {i for first, last in rest for i in range(first, min(last, 200) + 1)} == set(range(201)) - inside


@given(st.integers(0, sys.maxunicode), st.integers(0, 5000))
def test_byte_ranges_hold_exactly_the_characters(first, length):
    last = min(first + length, sys.maxunicode)
    products = list(utf8_ranges(first, last))
    edges = {first, last, *range(first - 70, first + 70), *range(last - 70, last + 70), (first + last) // 2}
    for code in edges:
        if 0 <= code <= sys.maxunicode and unicodedata.category(chr(code)) != "Cs":
            letters = chr(code).encode()
            fits = [product for product in products if len(product) == len(letters)
                    and all(low <= byte <= high for byte, (low, high) in zip(letters, product, strict=True))]
            assert len(fits) == (first <= code <= last)


def test_whole_of_unicode_is_a_few_products_and_the_dead_state_is_dead():
    assert len(list(utf8_ranges(0, LAST))) == 9
    automaton = compile_regex("[é-日]")
    assert bool((automaton.table[DEAD] == DEAD).all()) and not bool(automaton.accepting[DEAD])
    assert automaton.walk("é".encode()[:1] + b"x") == DEAD  # half of a character, then something else
    assert not automaton.matches("\ud800")


@pytest.mark.parametrize(("pattern", "why"), [
    ("a(b", "not closed"), ("a)", "closing bracket"), ("*a", "nothing to repeat"), ("a**", "repeat of a repeat"),
    ("{2}", "nothing to repeat"), ("a{3,2}", "from 3 to 2"), ("a{2000}", "from 2000 to 2000"), ("[a", "too early"),
    ("[b-a]", "upwards"), (r"[\d-x]", "upwards"), ("^a", "not needed"), ("a$", "not needed"), ("(?=a)", r"\(\?"),
    (r"(a)\1", "not known"), (r"\bword", "not known"), ("\\", "too early"), (r"\x4", "hexadecimal"), ("a*+", "repeat"),
    (r"\012", "not known"),
])  # fmt: skip
def test_what_it_can_not_read_is_refused_with_the_place(pattern, why):
    with pytest.raises(ValueError, match=why) as error:
        compile_regex(pattern)
    assert repr(pattern) in str(error.value) and "at character" in str(error.value)


def test_a_pattern_of_too_many_states_is_refused():
    with pytest.raises(ValueError, match="too large|more than 5000 states"):
        compile_regex("(a|b)*a(a|b){16}")
    with pytest.raises(ValueError, match="too large"):
        compile_regex("(((a{100}){100}){100}){100}")
