r"""The peer that most people use: transformers, on the same file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minillm.bench.decode.entrants import Entrant

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def transformers_entrants(directory: Path) -> Iterator[Entrant]:
    r"""Transformers with its own settings, in float32 (the yardstick of speed and the judge of quality) and bfloat16.

    It reads a folder that our export has made: from a GGUF file it would compute with packed weights, another thing.

    Args:
        directory: with config.json and safetensors.
    Returns: an iterator over them.
    Raises:
        ValueError: if transformers is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ValueError("bench decode: compares with transformers, which is not installed; python -m pip install "
                         "transformers") from error
    noisy = transformers.logging.is_progress_bar_enabled()
    transformers.logging.disable_progress_bar()
    for kind, dtype in DTYPES.items():
        model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
        n_bytes = sum(weight.numel() * weight.element_size() for weight in model.parameters())
        yield Entrant("transformers", kind, "", n_bytes, _writer(model), _reader(model))
    if noisy:
        transformers.logging.enable_progress_bar()


def _writer(model: Any) -> Any:
    def write(prompts: Tensor, n_new: int) -> Tensor:
        with torch.inference_mode():
            texts = model.generate(
                prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=n_new, min_new_tokens=n_new,
                do_sample=False, temperature=None, top_p=None, top_k=None, pad_token_id=0, eos_token_id=None)
        return texts[:, prompts.shape[1] :]

    return write


def _reader(model: Any) -> Any:
    def logits(token_ids: Tensor) -> Tensor:
        rows, cache = [], None
        with torch.inference_mode():
            for one in token_ids.split(1):
                out = model(one[None], past_key_values=cache, use_cache=True)
                rows.append(out.logits[0].float())
                cache = out.past_key_values
        return torch.cat(rows)

    return logits
