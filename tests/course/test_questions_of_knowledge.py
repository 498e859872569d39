r"""The questions that come with the course: well-formed, and no guessing rule gets far on them."""

from collections import Counter

from minillm.course.questions import general_knowledge
from minillm.inference.multiple_choice import read_choice_questions


def test_every_place_is_right_equally_often_and_nothing_is_said_twice():
    questions = read_choice_questions(general_knowledge())
    assert len(questions) == 64 == len({each.question for each in questions})
    assert Counter(each.answer for each in questions) == dict.fromkeys(range(4), 16)
    assert all(len(set(each.choices)) == 4 for each in questions)


def test_the_longest_choice_is_a_bad_guess():
    questions = read_choice_questions(general_knowledge())
    for rule in (max, min):
        hits = sum(len(each.choices[each.answer]) == rule(map(len, each.choices)) and
                   [*map(len, each.choices)].count(rule(map(len, each.choices))) == 1 for each in questions)
        assert hits < 32, rule
