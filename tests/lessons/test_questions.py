r"""The question bank is whole, and every answer is proved by a cell that asserts something it has computed."""

import ast
from functools import cache

import pytest

from minillm.course.bank import Question, questions
from minillm.course.builder import ROOT
from minillm.course.builder.lesson_file import LessonFile, lesson_names, read_lesson

# The questions of the lessons that are written, and whether a popular wrong answer goes about.
ASKED = {
    "00": {"broadcast-22x1-12": True, "matrix-rank": True, "log-softmax": True},
    "01": {
        "pretraining-objective": False, "llama-chinese-tokenization": False, "data-cleaning-pii": False,
        "word-embedding-lookup": False, "data-diversity-dedup": False, "data-mixture": False,
    },
    "02": {
        "encoder-module": False, "multi-head-role": True, "multi-head-compute": True, "attention-is-nonlinear": True,
        "decoder-module": False, "cross-attention-role": False, "decoder-mask-role": True, "decoder-two-masks": True,
        "cross-attn-pad-mask-where": False, "multi-head-benefits": True, "encoder-vs-decoder-visibility": False,
        "seq2seq-dataflow": False, "fusion-cross-attention-multimodal": False, "qkv-three-matrices": True,
        "self-attention-steps": True, "mha": False, "prefix-vs-causal-lm": True,
    },
    "03": {
        "mha-mqa-gqa-compare": False, "mqa": False, "gqa-kv-reduction": True, "rwkv": True, "infini-transformer": True,
        "flash-attention": True, "ring-attention": True, "blockwise-long-sequence": True,
        "transformer-time-complexity": True,
    },
    "04": {
        "sinusoidal-pe-module": True, "learned-absolute-pe": False, "sinusoidal-relative-property": True,
        "recursive-pe": True, "relative-pe-qk-expansion": False, "xlnet-relative-pe": False, "t5-relative-bias": False,
        "relative-clipping": False, "rope-vs-relative-extrapolation": True, "llama-infinite-length": True,
        "what-is-pe": True, "absolute-pe": True, "relative-pe": True, "rope-idea": True, "rope-advantages": True,
        "length-extrapolation": True, "length-extrapolation-solutions": True, "position-interpolation-ntk-yarn": False,
        "alibi-idea": True, "alibi-bias-matrix": True, "alibi-advantages": True, "gan-length-extrapolation": True,
    },
    "05": {
        "add-and-norm": False, "residual-resnet": True, "bn-vs-ln": True, "pre-norm-vs-post-norm": True,
        "llama-rmsnorm": False, "layernorm-formula": True, "rmsnorm-formula": True, "rmsnorm-vs-layernorm": True,
        "deepnorm-idea": True, "deepnorm-code": True, "deepnorm-advantages": True, "ln-positions": True,
        "ln-by-model": True,
    },
    "06": {
        "encoder-ffn-role": True, "ffn-formula": True, "activation-functions": False, "gelu-formula": True,
        "swish-formula": True, "glu-ffn-formula": True, "geglu-formula": True, "swiglu-formula": True,
        "llama-swiglu": False, "moe-ffn": False,
    },
    "07": {
        "transformer-modules": False, "last-token-embedding": True, "transformer-principle": True,
        "llm-classification": False, "llama-architecture": False, "open-model-families": True, "gpt-family": True,
        "bert": False, "xlnet-permutation-lm": True, "roberta": False, "t5": False, "glm-blank-infilling": False,
        "llm-architecture": True, "llm-not-rnn": True,
    },
    "08": {
        "gradient-accumulation": True, "mixed-precision-layers": False, "mixed-precision-training": False,
        "emergent-ability": True, "memory-saving-methods": True, "gradient-clipping": True,
        "activation-checkpointing": False, "token-duplication": True, "distributed-training-memory": True,
        "deepspeed": False, "model-parallelism": True,
    },
    "09": {
        "softmax-token-selection": True, "repetition-what": False, "repetition-why": True, "repetition-fix": True,
        "generation-parameters": True, "temperature": False, "greedy-beam-sampling": False, "output-compliance": True,
        "induction-heads": False, "generation-length-limits": False,
    },
    "10": {
        "kv-cache": False, "longer-text": True, "chunking-overlap": False, "hierarchical-long-text": False,
        "inference-memory": True, "paged-and-prefix-cache": False, "streaming-sinks": False,
    },
    "11": {
        "float-formats": True, "quantization-basics": False, "int8-vs-fp16-speed": True, "gpu-vs-cpu-speed": True,
        "cuda-gpu-acceleration": True,
    },
    "13": {
        "what-is-finetuning": False, "what-is-peft": True, "adapter": False, "prompt-tuning": True,
        "prefix-tuning": True, "p-tuning-v1": True, "p-tuning-param-injection": True, "p-tuning-v2": False,
        "rank-and-lora": True, "lora-pitfalls": True, "lora": False, "qlora": False,
    },
    "16": {
        "try-models-fast": True, "evaluation": True, "evaluation-human-factual": False, "perplexity": True,
        "rag": False, "langchain": False, "sentence-embedding-pooling": False, "interpretation-not-injection": True,
        "knowledge-graph-construction": False, "application-modes": True, "bert-vs-llama-vs-chatglm": True,
        "domain-models-needed": True, "inject-domain-knowledge": True, "knowledge-injection-other": False,
        "reasoning-ability": True,
    },
    "18": {"vae-vs-ae": True, "svm-kernel": True, "kernel-dimension": False},
}  # fmt: skip
BANK = questions()
WORDS = (40, 130)  # 20-40 seconds aloud, at 120 to 200 words a minute
SIGNS = (60, 260)  # the same in Chinese, at about 250 signs a minute; Latin letters count too


@cache
def lesson_of(name: str) -> LessonFile:
    return read_lesson(ROOT, name)


@pytest.mark.parametrize("lesson", ASKED)
def test_every_question_of_a_lesson_is_answered(lesson: str) -> None:
    assert {question.id for question in BANK if question.lesson == lesson} >= set(ASKED[lesson])


@pytest.mark.parametrize("lesson", ASKED)
def test_every_popular_wrong_answer_is_told(lesson: str) -> None:
    told = {question.id for question in BANK if question.myth is not None}
    assert {name for name, wrong in ASKED[lesson].items() if wrong} <= told


@pytest.mark.parametrize("question", BANK, ids=lambda question: question.id)
def test_answer_is_proved_by_an_assertion(question: Question) -> None:
    proof = question.proof
    assert proof.notebook in lesson_names(ROOT), f"there is no lesson {proof.notebook}"
    cell = lesson_of(proof.notebook).named_cell(proof.cell)
    assert cell is not None and cell.kind == "code", f"{proof.notebook} has no code cell named {proof.cell}"
    tests = [node.test for node in ast.walk(ast.parse(cell.text)) if isinstance(node, ast.Assert)]
    assert any(is_computed(test) for test in tests), f"{proof.cell} asserts nothing that it has computed"


@pytest.mark.parametrize("question", BANK, ids=lambda question: question.id)
def test_short_answer_can_be_said_in_half_a_minute(question: Question) -> None:
    words, signs = len(question.short.en.split()), len("".join(question.short.zh.split()))
    assert WORDS[0] <= words <= WORDS[1], f"{words} words"
    assert SIGNS[0] <= signs <= SIGNS[1], f"{signs} signs"
    assert any("\u4e00" <= sign <= "\u9fff" for sign in question.short.zh)


def is_computed(test: ast.expr) -> bool:
    r"""Whether an expression depends on anything but constants."""
    return any(isinstance(node, ast.Name) for node in ast.walk(test))


def test_assertion_of_constants_proves_nothing() -> None:
    assert is_computed(ast.parse("difference < 1e-6", mode="eval").body)
    assert is_computed(ast.parse("torch.equal(a, b)", mode="eval").body)
    assert not is_computed(ast.parse("True", mode="eval").body)
    assert not is_computed(ast.parse("1 < 2", mode="eval").body)
