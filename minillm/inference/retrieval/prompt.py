r"""What a model is told when passages have been found for a question."""

from collections.abc import Sequence

INSTRUCTION = "Answer the question in a few words, from these passages alone. If they do not say it, say so."


def grounded_messages(
    question: str, passages: Sequence[str], instruction: str = INSTRUCTION
) -> list[dict[str, str]]:
    r"""A talk of one message: the instruction, the numbered passages, the question.

    Args:
        question: what is asked.
        passages: what was found, in the order in which the model reads it.
        instruction: what the model is to do.
    Returns: messages for `apply_chat_template`.
    Source: Lewis et al. 2020, Retrieval-Augmented Generation; passages in the prompt, as is usual now, where they fed
        each to the model by itself.
    Lesson: 16.
    """
    shown = "\n\n".join(f"[{number}] {passage.strip()}" for number, passage in enumerate(passages, start=1))
    return [{"role": "user", "content": "\n\n".join(part for part in (instruction, shown, f"Question: {question}")
                                                   if part)}]
