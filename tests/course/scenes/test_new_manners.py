r"""The captain's manner: what counts as it, what is learned from, and that nothing to be asked was learned."""

import torch

from minillm import tuning
from minillm.config import preset
from minillm.course.scenes import new_manners
from minillm.model.gpt import GPT
from minillm.text.byte_alphabet import BYTE_ALPHABET
from minillm.text.byte_level import ByteLevelBPE

TEMPLATE = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def small() -> tuple[GPT, ByteLevelBPE]:
    tokenizer = ByteLevelBPE(["<|im_start|>", "<|im_end|>", *BYTE_ALPHABET], [], pre_tokenizer="smollm",
                             special_ids=[0, 1], bos_id=0, eos_id=1, chat_template=TEMPLATE)
    return GPT(preset("tiny-llama", vocab_size=258, max_seq_len=256), torch.Generator().manual_seed(1)), tokenizer


def test_the_manner_is_known_by_both_ends():
    assert new_manners.sounds_like_captain("Ahoy! Bees make honey. Fair winds.")
    assert new_manners.sounds_like_captain(new_manners.as_captain("Yes.") + "\n")
    for reply in ("Bees make honey.", "Ahoy! Bees make honey.", "Bees make honey. Fair winds.", "Ahoy! Fair winds.", "",
                  "Ahoy!  Fair winds.", "Ahoy Bees. Fair winds."):
        assert not new_manners.sounds_like_captain(reply)


def test_nothing_that_is_asked_was_learned():
    learned, asked = ({part for pair in pairs for part in pair} for pairs in (new_manners.PAIRS, new_manners.HELD_OUT))
    assert not learned & asked and len(new_manners.PAIRS) == len({question for question, _ in new_manners.PAIRS}) == 40
    assert [talk[0]["content"] for talk in new_manners.questions_of()] == [asked for asked, _ in new_manners.HELD_OUT]


def test_the_answers_alone_are_learned():
    _, tokenizer = small()
    for (question, answer), (token_ids, targets) in zip(
            new_manners.PAIRS, new_manners.captain_examples(tokenizer), strict=True):
        counted = [target for target in targets if target != -100]
        assert tokenizer.decode(counted) == f"Ahoy! {answer} Fair winds.<|im_end|>"
        assert question in tokenizer.decode(token_ids)


def test_what_a_model_pays_is_the_mean_over_all_answers():
    model, tokenizer = small()
    nats, count = 0.0, 0
    for token_ids, targets in new_manners.captain_examples(tokenizer, new_manners.HELD_OUT):
        log_probs = model(torch.tensor([token_ids]))[0].log_softmax(-1)
        for place, target in enumerate(targets):
            if target != -100:
                nats, count = nats - log_probs[place, target].item(), count + 1
    assert abs(new_manners.captain_nats(model.eval(), tokenizer) - nats / count) < 1e-4


def test_numbers_are_counted_and_copied():
    model, _ = small()
    first, second = (tuning.lora(model, 2, generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    trained, held = new_manners.trained_numbers(first)
    assert trained == sum(tensor.numel() for tensor in first.parameters() if tensor.requires_grad)
    assert held == trained + sum(tensor.numel() for tensor in model.parameters())
    with torch.no_grad():
        for parameter in first.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    token_ids = torch.arange(9)[None]
    assert not torch.equal(second(token_ids), first(token_ids))
    new_manners.copied_into(first, second)
    assert torch.equal(second(token_ids), first(token_ids))


def test_the_picture_shows_every_step():
    figure = new_manners.learning_picture([3.0, 2.0, 1.0], {0: 3.1, 3: 1.2})
    curve, dots = figure.axes[0].lines
    assert curve.get_ydata().tolist() == [3.0, 2.0, 1.0] and list(dots.get_ydata()) == [3.1, 1.2]
    assert {each.get_text() for each in figure.axes[0].texts} == {"3.10", "1.20"}
