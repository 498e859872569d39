r"""Lesson 16: the learner's functions run a real model, and the bug that is shown is the bug that is run."""

import re

import pytest
import torch

from minillm.cli import corpora
from minillm.config import preset
from minillm.course import exercises, mine, shelf
from minillm.course.judge.draw import Draw
from minillm.course.lessons.lesson_16.continuing import CONTINUATION_LOG_PROBS, choice_cases
from minillm.inference import chat, evaluate, multiple_choice
from minillm.inference.multiple_choice import ChoiceQuestion
from minillm.inference.retrieval import bm25, dense
from minillm.model.gpt import GPT
from minillm.pretrained.loading import load_tokenizer
from minillm.text import chat_template
from minillm.text.byte_tokenizer import ByteTokenizer
from tests.pretrained.real import smollm2_file, smollm2_model

USED = tuple(exercise.id for exercise in exercises() if exercise.lesson == "16")
BY_ID = {exercise.id: exercise for exercise in exercises()}
# What SmolLM2 is made of, but for swiglu, which stays the course's. Their sdpa computes its weights by itself.
PARTS = {
    "layers.masks.causal_mask", "layers.sdpa.sdpa", "layers.heads.split_heads", "layers.heads.merge_heads",
    "layers.heads.repeat_kv", "layers.rope.rope_angles", "layers.rope.apply_rope", "layers.norms.rms_norm",
    "model.block.block_forward", "model.gpt.gpt_forward", "layers.cache.cache_append",
    "text.chat_template.apply_chat_template",
}  # fmt: skip


@pytest.fixture(autouse=True)
def empty_shelf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "IN_MEMORY", shelf.Shelf())
    monkeypatch.setattr(mine, "_only_here", {})


def judge_a_small_model() -> None:
    r"""What the lesson does with the real model, with one that has learned nothing."""
    model = GPT(preset("tiny", vocab_size=256, max_seq_len=32), torch.Generator().manual_seed(0)).eval()
    tokenizer, token_ids = ByteTokenizer(), torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        evaluate.perplexity(model(token_ids[:, :-1]), token_ids[:, 1:])
    corpora.judge_text(model, tokenizer, "a text")
    multiple_choice.judge_questions(model, tokenizer, [ChoiceQuestion("a", ("b", "c"), 0)])
    dense.embed_texts(model, tokenizer, ["some", "texts"])
    bm25.bm25_scores(["a"], [["a", "b"]])
    tokenizer.chat_template = "{%for message in messages%}{{'<|im_start|>'+message['role']+'\n'+message['content']" \
        "+'<|im_end|>'+'\n'}}{%endfor%}{%if add_generation_prompt%}{{'<|im_start|>assistant\n'}}{%endif%}"
    chat_template.chat_text(tokenizer, [{"role": "user", "content": "Hi"}], True)


@pytest.mark.parametrize("part", USED)
def test_the_evaluation_raises_where_a_part_of_the_learner_raises(part: str) -> None:
    with mine.active():
        judge_a_small_model()
    assert {name: calls for name, _, calls in mine.table().rows}[part] >= 1
    source = f"def {part.rpartition('.')[2]}(*args, **kwargs):\n    raise ArithmeticError('mine')\n"
    shelf.IN_MEMORY.keep_attempt(part, source)
    with pytest.raises(ArithmeticError, match="mine"), mine.active():
        judge_a_small_model()


def test_the_bug_that_is_shown_is_a_proved_mistake(fresh_seed: int) -> None:
    code = "import torch\n" + re.search(r"```python\n(.*?)```", CONTINUATION_LOG_PROBS.task, re.DOTALL)[1]
    namespace: dict = {}
    exec(code, namespace)
    shown, proved = namespace["continuation_log_probs"], CONTINUATION_LOG_PROBS.mistakes[0].wrong
    for args, _ in choice_cases(Draw(fresh_seed)):
        torch.testing.assert_close(shown(*args), proved(*args), equal_nan=True)
    assert CONTINUATION_LOG_PROBS.judge(shown).mistake == "not shifted"


def test_smollm2_runs_on_functions_that_somebody_else_wrote() -> None:
    model, tokenizer = smollm2_model(), load_tokenizer(smollm2_file())
    token_ids = torch.tensor([tokenizer.encode("The capital of France is the city of")])
    talk = [{"role": "user", "content": "What is the capital of France?"}]

    def look() -> tuple[torch.Tensor, str]:
        with torch.inference_mode():
            return model(token_ids), "".join(chat.stream_reply(model, tokenizer, talk, 3, temperature=0.0))

    logits, reply = look()
    for part in PARTS:
        mine.keep(part, BY_ID[part].other_style)
    with mine.active():
        own_logits, own_reply = look()
    rows = {name: (whose, calls) for name, whose, calls in mine.table().rows}
    assert {name for name, (whose, calls) in rows.items() if whose == "yours" and calls} == PARTS
    assert rows["layers.sdpa.sdpa"] == ("yours", 30 * 4)  # 30 layers; the text, the prompt and 2 tokens after it
    assert rows["layers.gated.swiglu"] == ("the course's", 30 * 4)
    assert float((own_logits - logits).abs().max()) < 1e-3
    assert own_reply == reply != ""
