"""The bilingual phrases: both languages say the same, all gaps are filled, scripts do not mix."""

import random
import re

from minillm.text.bilingual import PAGE, PHRASES, SENTENCES, bilingual_documents, bilingual_sentences


def test_sentences_have_the_same_gaps_in_both_languages():
    for english, chinese in SENTENCES:
        gaps = [sorted(re.findall(r"{(\w+)}", side)) for side in (english, chinese)]
        assert gaps[0] == gaps[1] and set(gaps[0]) <= set(PHRASES), english


def test_scripts_do_not_mix():
    phrases = [pair for pairs in PHRASES.values() for pair in pairs]
    for english, chinese in [*phrases, *SENTENCES, PAGE]:
        assert english.isascii(), english
        assert re.search("[，。\u4e00-\u9fff]", chinese) and not re.search("[A-Za-z]", re.sub(r"{\w+}", "", chinese)), (
            chinese
        )
    assert len({english for english, _ in phrases}) == len({chinese for _, chinese in phrases}) == len(phrases)


def test_both_sides_of_a_sentence_hold_the_same_phrases(fresh_seed: int):
    pairs = bilingual_sentences(300, random.Random(fresh_seed))
    for english, chinese in pairs:
        assert "{" not in english + chinese and english.endswith(".") and chinese.endswith("。")
        assert english[0].isupper() and english.isascii() and not chinese.isascii()
        for kind in ("thing", "study", "food", "felt"):  # no phrase of these is part of another
            said = [(first in english.lower(), second in chinese) for first, second in PHRASES[kind]]
            assert sum(a for a, _ in said) <= sum(b for _, b in said)
    assert pairs == bilingual_sentences(300, random.Random(fresh_seed))
    assert len(set(pairs)) > 150


def test_documents_are_sentences_in_a_row(fresh_seed: int):
    (english, chinese), _ = bilingual_documents(2, random.Random(fresh_seed), n_sentences=5)
    assert english.count(".") == 5 == chinese.count("。")
