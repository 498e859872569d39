r"""The kernel against the model itself, on every code path that this processor has, for every shape that it takes."""

import threading

import pytest
import torch

from minillm.config import AttentionOptions, Ends, Glu, Rope, Yarn
from minillm.inference.divergence import mean_kl
from minillm.inference.fast import build
from minillm.inference.fast.kernel_decoder import KernelDecoder, kernel_refusal
from minillm.inference.generate import generate
from minillm.layers import paths, recorder
from tests.inference.fast.kernel_models import kernel_llama, relative, skip_without_kernel, steps
from tests.inference.fast.models import in_weights, small_llama

CLOSE = 0.15  # activations in int8 move logits by 0.010 to 0.036 of their norm here (200 seeds); a mistake by about 1


@pytest.fixture(autouse=True)
def kernel():
    r"""Nothing here runs without it."""
    skip_without_kernel()


@pytest.fixture(params=build.PATHS)
def path(request):
    r"""Each code path in turn."""
    if request.param not in build.kernel_paths():
        pytest.skip(f"this processor has no {request.param}")
    return request.param


def text(model, n_tokens, seed=0):
    r"""Random token ids, (1, n_tokens)."""
    return torch.randint(model.config.vocab_size, (1, n_tokens), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_steps_say_what_the_model_says(path, weights, fresh_seed):
    for seed in range(fresh_seed, fresh_seed + 4):
        model = kernel_llama(seed, weights)
        token_ids = text(model, 20, seed)
        with torch.inference_mode():
            wanted = model(token_ids)
        assert relative(steps(KernelDecoder(model, 2, path), token_ids), wanted) < CLOSE, seed
        assert relative(steps(KernelDecoder(model, 1, path), token_ids, 7), wanted) < CLOSE, seed


@pytest.mark.parametrize("changes", [
    dict(head_dim=2, n_heads=1, n_kv_heads=1), dict(head_dim=6, n_heads=4, n_kv_heads=2),
    dict(head_dim=20, n_heads=3, n_kv_heads=1), dict(head_dim=64, n_heads=2, n_kv_heads=2),
    dict(head_dim=80, n_heads=2, n_kv_heads=1), dict(head_dim=128, n_heads=1, n_kv_heads=1),
    dict(n_heads=9, n_kv_heads=3, head_dim=8), dict(d_model=48), dict(d_model=33), dict(ffn=Glu(1)), dict(ffn=Glu(77)),
    dict(vocab_size=17), dict(vocab_size=1000), dict(position=Rope(100.0, 0.5)),
    dict(position=Rope(scaling=Yarn(4.0, 16))),
    dict(tie_embeddings=True, ends=Ends(2.0, logit_scale=0.5)), dict(tie_embeddings=False),
], ids=str)
def test_every_shape(path, changes):
    for weights in ("int8", "int4"):
        model = kernel_llama(3, weights, **dict(position=Rope(100.0)) | changes)
        token_ids = text(model, 9)
        with torch.inference_mode():
            assert relative(steps(KernelDecoder(model, 3, path), token_ids), model(token_ids)) < CLOSE


def test_the_number_of_threads_changes_nothing(path):
    model = kernel_llama(5, "int4")
    token_ids = text(model, 12)
    alone = steps(KernelDecoder(model, 1, path), token_ids)
    for n_threads in (2, 3, 5, 16):
        assert torch.equal(steps(KernelDecoder(model, n_threads, path), token_ids), alone)


def test_the_cache_can_be_handed_to_and_fro(path):
    model = kernel_llama(6, "int8")
    decoder, token_ids = KernelDecoder(model, 2, path), text(model, 16)
    with torch.inference_mode():
        wanted, cache, reference = model(token_ids), decoder.new_cache(1, 16), model.new_cache(1, 16)
        model(token_ids, cache=reference)
        parts = [(decoder, 3), (decoder, 1), (decoder, 1), (model, 1), (decoder, 1), (model, 4), *[(decoder, 1)] * 5]
        out, at = [], 0
        for speaker, n_tokens in parts:
            out.append(speaker(token_ids[:, at : at + n_tokens], cache=cache))
            at += n_tokens
    assert at == 16 and relative(torch.cat(out, dim=1), wanted) < CLOSE
    for mine, theirs in zip(cache, reference, strict=True):
        assert mine.length == 16 and torch.equal(mine.memory()[2], theirs.memory()[2])
        for k, wanted_k in zip(mine.memory()[:2], theirs.memory()[:2], strict=True):
            assert relative(k, wanted_k) < CLOSE


def test_texts_in_turns_do_not_write_into_each_others_caches():
    model = kernel_llama(0, "int4")
    decoder, texts = KernelDecoder(model, 1), [text(model, 6, seed) for seed in range(3)]
    wanted = [steps(decoder, each) for each in texts]  # each of their caches is gone when the next one comes
    with torch.inference_mode():
        caches = [decoder.new_cache(1, 6) for _ in texts]
        for i in range(6):
            for token_ids, cache, logits in zip(texts, caches, wanted, strict=True):
                assert torch.equal(decoder(token_ids[:, i : i + 1], cache=cache), logits[:, i : i + 1])


def test_a_step_that_does_not_fit_is_refused_by_the_model():
    model = kernel_llama(8, "int4")
    decoder = KernelDecoder(model, 2)
    with torch.inference_mode():
        cache = decoder.new_cache(1, 4)
        decoder(text(model, 4), cache=cache)
        with pytest.raises(ValueError, match="capacity"):
            decoder(text(model, 1), cache=cache)


def test_what_is_unusual_goes_through_the_model():
    model = kernel_llama(7, "int4")
    decoder, token_ids = KernelDecoder(model, 2), text(model, 6)
    decoder._step = None  # would fail
    mask = torch.tensor([[False, True, True, True, True, True]])

    def both(run):
        with torch.inference_mode():
            found, wanted = (run(speaker) for speaker in (decoder, model))
        assert torch.equal(found, wanted)

    both(lambda speaker: speaker(token_ids))
    both(lambda speaker: speaker(token_ids, mask, cache=speaker.new_cache(1, 8)))
    both(lambda speaker: speaker(token_ids[:, :1], positions=torch.tensor([3]), cache=speaker.new_cache(1, 8)))
    both(lambda speaker: speaker(token_ids[:, :1], cache=model.new_cache(1, 8, torch.bfloat16)))
    with paths.plain_path():
        both(lambda speaker: speaker(token_ids[:, :1], cache=speaker.new_cache(1, 8)))
    with recorder.record() as tape:
        both(lambda speaker: speaker(token_ids[:, :1], cache=speaker.new_cache(1, 8)))
    assert tape["residual"]
    assert decoder(token_ids[:, :1], cache=decoder.new_cache(1, 8)).shape[:2] == (1, 1)  # gradients are on


def test_padding_in_the_cache_is_seen_by_the_model_alone():
    model = kernel_llama(9, "int8")
    decoder, token_ids = KernelDecoder(model, 2), text(model, 5)
    mask = torch.tensor([[False, False, True, True, True]])
    with torch.inference_mode():
        mine, theirs = decoder.new_cache(1, 8), model.new_cache(1, 8)
        decoder(token_ids, mask, cache=mine), model(token_ids, mask, cache=theirs)
        mask = torch.cat([mask, torch.tensor([[True]])], dim=1)
        wanted = model(token_ids[:, :1], mask, cache=theirs)
        assert torch.equal(decoder(token_ids[:, :1], mask, cache=mine), wanted)


def test_generate_and_several_texts_at_once():
    model = kernel_llama(10, "int8")
    decoder = KernelDecoder(model, 2)
    prompts = torch.randint(model.config.vocab_size, (3, 5), generator=torch.Generator().manual_seed(0))
    assert generate(decoder, prompts, 6, temperature=0.0).shape == (3, 11)
    written = generate(decoder, prompts[:1], 9, temperature=0.0)
    with torch.inference_mode():
        logits = model(written)
    best, chosen = logits[0, 4:-1].amax(dim=-1), logits[0, 4:-1].gather(1, written[0, 5:, None])[:, 0]
    assert bool((best - chosen <= 2 * CLOSE * logits[0].norm(dim=-1)[4:-1]).all())


def test_calls_from_several_threads_do_not_mix():
    model = kernel_llama(11, "int4")
    decoder = KernelDecoder(model, 2)
    texts = [text(model, 12, seed) for seed in range(4)]
    wanted = [steps(decoder, token_ids) for token_ids in texts]
    found: dict[int, torch.Tensor] = {}

    def read(number):
        found[number] = steps(decoder, texts[number])

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[number], wanted[number]) for number in range(4))


def test_what_the_kernel_does_not_know_is_refused_by_name():
    model = small_llama(0, ffn=Glu(32), attention=AttentionOptions(), ends=Ends())
    with pytest.raises(ValueError, match="is a Linear, and the kernel knows"):
        KernelDecoder(model)
    cases = [("gelu", dict(ffn=Glu(32, "gelu"))), ("bias", dict(attention=AttentionOptions(qkv_bias=True))),
             ("lm_head has a bias", dict(ends=Ends(head_bias=True)))]
    for word, changes in cases:
        assert word in kernel_refusal(kernel_llama(2, "int8", **changes))
    known = kernel_llama(2, "int8")
    assert kernel_refusal(known) is None
    with pytest.raises(ValueError, match="n_threads=0"):
        KernelDecoder(known, 0)
    with pytest.raises(ValueError, match="path='fast'"):
        KernelDecoder(known, path="fast")


def test_what_a_step_reads_is_what_the_formats_say():
    model = in_weights(small_llama(1, d_model=64, n_layers=2, n_heads=2, n_kv_heads=1, head_dim=32, vocab_size=80,
                                   ffn=Glu(96), attention=AttentionOptions(), ends=Ends()), "int4")
    n_rows, n_weights = 2 * (128 + 64 + 192 + 64), 2 * (128 * 64 + 64 * 64 + 192 * 64 + 64 * 96)
    assert KernelDecoder(model, 1).n_bytes() == n_weights * 5 // 8 + 8 * n_rows + 80 * 64 + 4 * 80


def test_the_quality_gate_on_real_text():
    from pydoc_data.topics import topics

    from minillm.inference.quantization.convert import quantize_model
    from minillm.pretrained.loading import load_tokenizer
    from tests.pretrained.real import smollm2_file, smollm2_model

    token_ids = torch.tensor([load_tokenizer(smollm2_file()).encode(topics["assignment"])[:40]])
    with torch.inference_mode():
        exact = smollm2_model()(token_ids)[:, 16:]
        for weights, most in (("int8", 0.03), ("int4", 0.05)):
            decoder = KernelDecoder(quantize_model(smollm2_model(), weights), 1)
            assert mean_kl(exact, steps(decoder, token_ids, 16)[:, 16:]) < most, weights
