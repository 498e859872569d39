r"""What every family's test needs: a small foreign model with random weights, and the comparison with ours."""

import copy
import inspect
import random
from typing import Any

import pytest
import torch
import transformers

from minillm.layers import paths
from minillm.pretrained import from_hf

TOLERANCE = 1e-4
VOCABULARY = 43
TRAINED_LEN = 16  # max_position_embeddings where it is no limit: texts of the tests are longer
ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional")
CHANGING = ("dynamic", "longrope")  # angles depend on the length seen


def rope_parameters(kind: str, draw: random.Random, width: int, share: float | None = None) -> dict[str, Any]:
    r"""A random description of RoPE of one type; every option of the type is given or left out."""
    given: dict[str, Any] = {"rope_type": kind, "rope_theta": draw.choice([100.0, 1e4, 5e5])}
    if share is not None:
        given["partial_rotary_factor"] = share
    if kind in ("linear", "dynamic", "yarn", "llama3"):
        given["factor"] = draw.choice([1.5, 2.0, 4.0])
    if kind in ("yarn", "llama3", "longrope"):
        given["original_max_position_embeddings"] = draw.randint(10, 15)
    pairs = int(width * (share or 1.0)) // 2
    some = {
        "yarn": dict(
            attention_factor=0.8, beta_fast=4.0, beta_slow=0.5, truncate=False, mscale=0.7, mscale_all_dim=1.3),
        "longrope": dict(attention_factor=1.2, factor=3.0), "proportional": dict(factor=2.0),
    }.get(kind, {})  # fmt: skip
    given |= {name: value for name, value in some.items() if draw.random() < 0.5}
    if kind == "llama3":
        given |= dict(low_freq_factor=0.5, high_freq_factor=draw.choice([1.5, 4.0]))
    if kind == "longrope":
        given |= {name: [draw.uniform(1, 4) for _ in range(pairs)] for name in ("short_factor", "long_factor")}
    if kind == "proportional":
        given["partial_rotary_factor"] = draw.choice([0.5, 0.75, 1.0]) if share is None else share
    return given


def head_width(draw: random.Random, n_heads: int) -> int:
    r"""A head's width in a model that is at least 12 wide.

    LayerNorm over two or three features divides by a variance that may be all but zero: it makes much of the last bit.
    """
    least = -(-12 // n_heads)
    return draw.randint(least, least + 6)


def llama_sizes(draw: random.Random) -> dict[str, Any]:
    r"""Random sizes that LLaMA and its descendants share: grouped heads, a head_dim of its own, tied or not."""
    n_kv_heads = draw.randint(1, 3)
    n_heads = n_kv_heads * draw.randint(1, 3)
    return dict(
        num_attention_heads=n_heads, num_key_value_heads=n_kv_heads, hidden_size=n_heads * 2 * draw.randint(2, 5),
        head_dim=2 * draw.randint(2, 6), num_hidden_layers=draw.randint(1, 3), intermediate_size=draw.randint(5, 30),
        hidden_act=draw.choice(["silu", "gelu", "gelu_pytorch_tanh", "relu2"]), rms_norm_eps=draw.choice([1e-6, 1e-3]),
        tie_word_embeddings=draw.random() < 0.5, max_position_embeddings=TRAINED_LEN)


def foreign_model(name: str, seed: int, **options: Any) -> Any:
    r"""A transformers model of the class `<name>` with these options and every parameter drawn at random."""
    config_class = getattr(transformers, name).config_class
    config = config_class(**dict(vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, pad_token_id=None) | options)
    config._experts_implementation = "eager"  # others want sizes that are multiples of 4
    model = getattr(transformers, name)._from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:  # norms and biases too, so that a forgotten one is seen
                parameter += 0.3 * noise
            else:
                parameter.copy_(1.2 * noise * parameter.shape[-1] ** -0.5)
    return model


def reference_logits(hf_model: Any, token_ids: torch.Tensor, padding_mask: torch.Tensor) -> torch.Tensor:
    r"""What transformers says, with the position ids that `padding_mask` implies."""
    hf_model = copy.deepcopy(hf_model)  # with some RoPE types it remembers how long earlier texts were
    given = dict(attention_mask=padding_mask.long(), use_cache=False)
    if "position_ids" in inspect.signature(hf_model.forward).parameters:
        given["position_ids"] = (padding_mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        return hf_model(token_ids, **given).logits


def masks(batch_size: int, seq_len: int, draw: random.Random) -> dict[str, torch.Tensor]:
    r"""No padding, padding on the left, padding on the right; each row has another number of real tokens."""
    lengths = torch.tensor([seq_len, *(draw.randint(1, seq_len) for _ in range(batch_size - 1))])[:, None]
    steps = torch.arange(seq_len)
    return {"none": torch.ones(batch_size, seq_len, dtype=torch.bool), "left": steps >= seq_len - lengths,
            "right": steps < lengths}


def largest_difference(hf_model: Any, seed: int, seq_len: int = 24, cached: bool = True) -> float:
    r"""Compare with every padding, on both paths and with a cache; the largest difference at real tokens."""
    draw, model = random.Random(seed), from_hf(hf_model)
    torch.manual_seed(seed)
    token_ids = torch.randint(VOCABULARY, (3, seq_len))
    worst = 0.0
    for side, mask in masks(3, seq_len, draw).items():
        want = reference_logits(hf_model, token_ids, mask)
        padding_mask = None if side == "none" else mask
        outcomes = {"with gradients": model(token_ids, padding_mask)}
        with torch.no_grad():
            outcomes["fused"] = model(token_ids, padding_mask)
            with paths.plain_path():
                outcomes["plain"] = model(token_ids, padding_mask)
            if cached:
                outcomes["cached"] = _in_pieces(model, token_ids, padding_mask, draw)
        for way, got in outcomes.items():
            assert got.isfinite().all(), f"{side} padding, {way}: not a number, if only at padding"
            difference = (got - want)[mask].abs().max().item()
            assert difference <= TOLERANCE, f"{side} padding, {way}: differs by {difference:.2e}"
            worst = max(worst, difference)
    assert want[mask].std() > 0.1, "logits that are all alike prove nothing"
    return worst


def _in_pieces(model: Any, token_ids: torch.Tensor, padding_mask: torch.Tensor | None, draw: random.Random):
    batch_size, seq_len = token_ids.shape
    cache, pieces, start = model.new_cache(batch_size, seq_len), [], 0
    while start < seq_len:
        end = min(seq_len, start + draw.randint(1, 9))
        known = None if padding_mask is None else padding_mask[:, :end]
        pieces.append(model(token_ids[:, start:end], known, cache=cache))
        start = end
    return torch.cat(pieces, dim=1)


def check_family(hf_model: Any, seed: int, **comparison: Any) -> None:
    r"""Same logits, and the promises of `from_hf` about what it returns; the difference is shown by pytest -s."""
    before = {name: tensor.clone() for name, tensor in hf_model.state_dict().items()}
    worst = largest_difference(hf_model, seed, **comparison)
    print(f"{type(hf_model).__name__}: largest difference {worst:.1e}")
    model = from_hf(hf_model)
    ours, theirs = ({p.data_ptr() for p in m.parameters()} for m in (model, hf_model))
    assert not model.training and not ours & theirs, "eval mode, own copies"
    assert all(torch.equal(tensor, before[name]) for name, tensor in hf_model.state_dict().items())


def refuses_cache(hf_model: Any) -> None:
    r"""Where angles depend on the length seen, a cache is refused with the reason."""
    model = from_hf(hf_model)
    with pytest.raises(ValueError, match="cache.*angles change"):
        model.new_cache(1, 8)


def check_refused(name: str, option: str, **options: Any) -> None:
    r"""`from_hf` names the option that it does not honour."""
    with pytest.raises(ValueError, match=option):
        from_hf(foreign_model(name, 0, **options))
