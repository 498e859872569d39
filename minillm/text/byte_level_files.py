r"""How GGUF files and Hugging Face's tokenizer.json write a byte-level BPE tokenizer."""

from collections.abc import Mapping, Sequence
from typing import Any

# How llama.cpp names the two rules.
_GGUF_PRE_TOKENIZERS = {"gpt-2": "gpt-2", "gpt2": "gpt-2", "smollm": "smollm"}
_CONTROL, _USER_DEFINED = 3, 4  # token types of GGUF
_GGUF_IDS = {"bos_id": "bos_token_id", "eos_id": "eos_token_id", "pad_id": "padding_token_id"}


def read_gguf_tokenizer(metadata: Mapping[str, Any]) -> dict[str, Any]:
    r"""What `ByteLevelBPE` needs to know, from the metadata of a GGUF file.

    Args:
        metadata: keys and values.
    Returns: the arguments of `ByteLevelBPE`.
    Raises:
        ValueError: if a key is missing, or the tokenizer is of another kind.
    Source: the GGUF specification, section "Tokenizer". A byte without a token becomes nothing, as in llama.cpp and
        transformers, although the file names an unknown token.
    Lesson: 16.
    """
    model, rule = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if model != "gpt2":
        raise ValueError(f"metadata['tokenizer.ggml.model'] is {model!r}; only 'gpt2', byte-level BPE, can be read")
    if rule not in _GGUF_PRE_TOKENIZERS:
        raise ValueError(f"metadata['tokenizer.ggml.pre'] is {rule!r}; what can be read is {[*_GGUF_PRE_TOKENIZERS]}")
    tokens, merges = (_strings(metadata, f"tokenizer.ggml.{name}") for name in ("tokens", "merges"))
    types = [int(each) for each in metadata.get("tokenizer.ggml.token_type", ())] or [1] * len(tokens)
    if len(types) != len(tokens):
        raise ValueError(f"metadata['tokenizer.ggml.token_type'] has {len(types)} values for {len(tokens)} tokens")
    ids = {name: metadata[f"tokenizer.ggml.{key}"] for name, key in _GGUF_IDS.items()
           if f"tokenizer.ggml.{key}" in metadata}
    return {
        "tokens": tokens, "merges": [_pair(merge) for merge in merges], "pre_tokenizer": _GGUF_PRE_TOKENIZERS[rule],
        "special_ids": [i for i, kind in enumerate(types) if kind == _CONTROL],
        "whole_ids": [i for i, kind in enumerate(types) if kind == _USER_DEFINED],
        "adds_bos": bool(metadata.get("tokenizer.ggml.add_bos_token", False)),
        "chat_template": metadata.get("tokenizer.chat_template"),
        **{name: int(token_id) for name, token_id in ids.items()},
    }


def read_json_tokenizer(values: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    r"""What `ByteLevelBPE` needs to know, from tokenizer.json and tokenizer_config.json.

    Args:
        values: what tokenizer.json holds.
        settings: what tokenizer_config.json holds; may be empty.
    Returns: the arguments of `ByteLevelBPE`.
    Raises:
        ValueError: if a part is missing, or changes the text in a way that `ByteLevelBPE` does not.
    Source: the files that the `tokenizers` library writes.
    Lesson: 16.
    """
    model, added = values.get("model") or {}, values.get("added_tokens") or []
    _require({"model.type": (model.get("type"), "BPE"), "normalizer": (values.get("normalizer"), None),
              "decoder.type": ((values.get("decoder") or {}).get("type"), "ByteLevel")})
    _require({f"model.{name}": (model.get(name) or None, None) for name in (
        "dropout", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges")})
    for token in added:
        _require({f"added_tokens {token.get('content')!r} {name}": (token.get(name) or None, None)
                  for name in ("single_word", "lstrip", "rstrip")})
    ids = dict(_mapping(model, "vocab"))
    ids.update((token["content"], token["id"]) for token in added)
    tokens = sorted(ids, key=lambda token: ids[token])
    if [ids[token] for token in tokens] != [*range(len(tokens))]:
        raise ValueError(f"the {len(tokens)} ids of model.vocab and added_tokens are not 0 to {len(tokens) - 1}")
    named = {name: _named(ids, settings, f"{name[:3]}_token") for name in ("bos_id", "eos_id", "pad_id")}
    unk = model.get("unk_token")
    if unk and unk not in ids:
        raise ValueError(f"model.unk_token is {unk!r}, which is not among the tokens")
    template = settings.get("chat_template")
    return {
        "tokens": tokens, "merges": [_pair(merge) for merge in model.get("merges") or ()],
        "pre_tokenizer": _json_rule(values.get("pre_tokenizer") or {}),
        "special_ids": [token["id"] for token in added if token.get("special")],
        "whole_ids": [token["id"] for token in added if not token.get("special")],
        "unk_id": ids[unk] if unk else None, "adds_bos": bool(settings.get("add_bos_token", False)),
        "chat_template": template if isinstance(template, str) else None, **named,
    }


def _json_rule(values: Mapping[str, Any]) -> str:
    parts = values.get("pretokenizers", []) if values.get("type") == "Sequence" else [values]
    kinds = [part.get("type") for part in parts]
    if kinds and kinds[-1] == "ByteLevel":
        _require({"pre_tokenizer.add_prefix_space": (parts[-1].get("add_prefix_space", True), False),
                  "pre_tokenizer.use_regex": (parts[-1].get("use_regex", True), True)})
    if kinds == ["ByteLevel"]:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"]:
        _require({"pre_tokenizer.individual_digits": (parts[0].get("individual_digits"), True)})
        return "smollm"
    raise ValueError(f"pre_tokenizer is {kinds}; what can be read is ByteLevel alone, or Digits and ByteLevel")


def _require(found: Mapping[str, tuple[Any, Any]]) -> None:
    for name, (value, wanted) in found.items():
        if value != wanted:
            raise ValueError(f"{name} is {value!r}; byte-level BPE as it can be read here has {wanted!r}")


def _named(ids: Mapping[str, int], settings: Mapping[str, Any], name: str) -> int | None:
    token = settings.get(name)
    token = token.get("content") if isinstance(token, Mapping) else token
    if token is not None and token not in ids:
        raise ValueError(f"{name} is {token!r}, which is not among the tokens")
    return None if token is None else ids[token]


def _mapping(values: Mapping[str, Any], name: str) -> Mapping[str, int]:
    if not isinstance(values.get(name), Mapping):
        raise ValueError(f"model.{name} is missing; tokenizer.json must give an id to each token there")
    return values[name]


def _strings(metadata: Mapping[str, Any], key: str) -> list[str]:
    found = metadata.get(key)
    if not isinstance(found, Sequence) or isinstance(found, str) or not all(isinstance(each, str) for each in found):
        raise ValueError(f"metadata[{key!r}] is missing, or is no list of strings; the file holds no whole tokenizer")
    return list(found)


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    parts = merge.split(" ") if isinstance(merge, str) else list(merge)
    if len(parts) != 2:
        raise ValueError(f"merge {merge!r} must be two tokens")
    return parts[0], parts[1]
