r"""Multiple choice: scores against a loop over single texts, files against what may stand in them."""

import json
from types import SimpleNamespace

import pytest
import torch

from minillm.config import preset
from minillm.inference import multiple_choice
from minillm.inference.multiple_choice import ChoiceQuestion
from minillm.model.gpt import GPT
from minillm.text.byte_tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer()


def small_model(seed, max_seq_len=96):
    config = preset("tiny", vocab_size=TOKENIZER.vocab_size, max_seq_len=max_seq_len)
    model = GPT(config, torch.Generator().manual_seed(seed)).eval()
    with torch.no_grad():
        for weight in model.parameters():  # fresh weights say nothing: let them disagree
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed + 1)))
    return model


def test_a_continuation_is_scored_token_by_token(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    logits = torch.randn(4, 7, 5, generator=generator)
    token_ids = torch.randint(5, (4, 7), generator=generator)
    counted = torch.rand(4, 7, generator=generator) < 0.5
    counted[:, 0], counted[:, 3] = False, True
    got = multiple_choice.continuation_log_probs(logits, token_ids, counted)
    for row in range(4):
        each = [torch.log_softmax(logits[row, t - 1].double(), 0)[token_ids[row, t]]
                for t in range(7) if counted[row, t]]
        assert float(got[row]) == pytest.approx(float(sum(each) / len(each)), rel=1e-5)
    for wrong in (torch.ones(4, 7, dtype=torch.bool), torch.zeros(4, 7, dtype=torch.bool)):
        with pytest.raises(ValueError, match="counted: nothing stands before"):
            multiple_choice.continuation_log_probs(logits, token_ids, wrong)


def test_choices_of_different_lengths_are_scored_as_if_alone(fresh_seed):
    model, choices = small_model(fresh_seed), ["a", "abcde", " été "]
    got = multiple_choice.choice_scores(model, TOKENIZER, "Who?", choices, prompt="Q {} A")
    for score, choice in zip(got.tolist(), choices, strict=True):
        before = TOKENIZER.encode("Q Who? A")
        after = TOKENIZER.encode(" " + choice.strip())
        with torch.no_grad():
            logits = model(torch.tensor([before + after]))[0].double()
        each = [torch.log_softmax(logits[len(before) + i - 1], 0)[token] for i, token in enumerate(after)]
        assert score == pytest.approx(float(sum(each) / len(each)), rel=1e-4)


def test_the_report_counts_what_is_right(fresh_seed):
    model = small_model(fresh_seed)
    scores = multiple_choice.choice_scores(model, TOKENIZER, "Who?", ["me", "you", "they"])
    best = int(scores.argmax())
    questions = [ChoiceQuestion("Who?", ("me", "you", "they"), answer) for answer in (best, best, (best + 1) % 3)]
    report = multiple_choice.judge_questions(model, TOKENIZER, [*questions, ChoiceQuestion("Who?", ("me", "you"), 0)])
    assert report.correct.tolist()[:3] == [True, True, False] and report.n_questions == 4
    assert report.accuracy == float(report.correct.float().mean())
    assert report.chance == pytest.approx((3 / 3 + 1 / 2) / 4)
    assert float(report.confidences[0]) == pytest.approx(float(scores.softmax(0).max()))
    assert report.confidences[0] == report.confidences[2]


def test_what_does_not_fit_is_refused():
    model = small_model(0, max_seq_len=24)
    with pytest.raises(ValueError, match=r"with the question they have up to 32 tokens.*max_seq_len=24"):
        multiple_choice.choice_scores(model, TOKENIZER, "", ["a", "b" * 30], prompt="Q")
    with pytest.raises(ValueError, match="prompt has"):
        multiple_choice.choice_scores(model, TOKENIZER, "x" * 50, ["a", "b"])
    with pytest.raises(ValueError, match="questions is empty"):
        multiple_choice.judge_questions(model, TOKENIZER, [])
    mute = SimpleNamespace(encode=lambda text: [], adds_bos=True, bos_id=0)
    with pytest.raises(ValueError, match="each must have one"):
        multiple_choice.choice_scores(model, mute, "", ["a", "b"])


def test_questions_are_read(tmp_path):
    file = tmp_path / "questions.json"
    file.write_text(json.dumps([{"question": "Où ?", "choices": ["ici", "là"], "answer": 1, "topic": "x"}]), "utf-8")
    assert multiple_choice.read_choice_questions(file) == [ChoiceQuestion("Où ?", ("ici", "là"), 1)]


@pytest.mark.parametrize(("content", "said"), [
    ("[", "cannot be read as JSON"), ("{}", "holds no list of questions"), ("[]", "holds no list of questions"),
    ("[3]", "question 1: "), ('[{"choices": ["a", "b"], "answer": 0}]', "question 1: 'question' is missing"),
    ('[{"question": "q", "choices": ["a", "b"], "answer": 2}]', "answer=2: choices are counted from 0 to 1"),
    ('[{"question": "q", "choices": ["a", "b"], "answer": true}]', "question 1: .*\"answer\" a number"),
    ('[{"question": "q", "choices": "ab", "answer": 0}]', "question 1: .*\"choices\" a list"),
    ('[{"question": "q", "choices": ["a"], "answer": 0}]', "question 1: choices=.*give at least two"),
    ('[{"question": "q", "choices": ["a", " "], "answer": 0}]', "none of them empty"),
    ("[" * 100_000, "cannot be read as JSON")])
def test_what_is_no_question_is_refused_with_its_place(content, said, tmp_path):
    (tmp_path / "q.json").write_text(content, "utf-8")
    with pytest.raises(ValueError, match=said):
        multiple_choice.read_choice_questions(tmp_path / "q.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.json cannot be read"):
        multiple_choice.read_choice_questions(tmp_path / "none.json")
