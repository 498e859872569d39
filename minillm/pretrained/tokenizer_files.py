r"""A byte-level BPE tokenizer as others write it down: Hugging Face's tokenizer.json, and the keys of a GGUF file.

Others name a token by its text, each byte of which is shown as a character (a space as "Ġ"), and a merge by the two
texts that it joins. How a text is cut into chunks stands in tokenizer.json as a regular expression, in GGUF as a name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from minillm.pretrained.exporting import end_ids
from minillm.text.bpe import BPETokenizer
from minillm.text.byte_alphabet import BYTE_ALPHABET
from minillm.text.byte_level import ByteLevelBPE
from minillm.text.byte_tokenizer import ByteTokenizer

# The chunks of minillm.text.bpe, with the classes of characters that Python's \w, \d and \s stand for spelled out.
_LETTER, _SPACE = r"[\p{L}\p{Nl}\p{No}]", r"\s\x1c-\x1f"
CHUNK = (rf"'(?:[sdmt]|ll|ve|re)| ?{_LETTER}{{1,64}}| ?\p{{Nd}}{{1,64}}| ?[^\p{{L}}\p{{N}}{_SPACE}]{{1,64}}"
         rf"|[{_SPACE}]{{1,64}}(?![^{_SPACE}])|[{_SPACE}]{{1,64}}")
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # GGUF's types of tokens
CUT_BY_GPT2 = ("GGUF can name only a few ways to cut a text into chunks; this file names GPT-2's, which is ours but "
               "for rare characters (Roman numerals, the separators U+001C to U+001F) and runs of over 64 of a kind")


@dataclass(frozen=True)
class Spelling:
    r"""A tokenizer in the words of its files.

    Args:
        tokens: by id; bytes as characters, special tokens as they are.
        merges: the pairs that are joined, the first learned first.
        pre_tokenizer: how chunks are cut, as in tokenizer.json.
        pre_name: how chunks are cut, as in GGUF.
        ends: ids of `bos`, `eos` and `pad`, or None.
        special: ids of tokens that are no text.
        whole: ids of tokens of text that are taken out before all else.
        unk_id: of what stands for a byte without a token; None = nothing does.
        adds_bos: whether `bos` belongs before a text.
        chat_template: in Jinja; None = there is none.
    """

    tokens: tuple[str, ...]
    merges: tuple[tuple[str, str], ...]
    pre_tokenizer: Mapping[str, Any]
    pre_name: str
    ends: Mapping[str, int | None]
    special: frozenset[int] = frozenset()
    whole: frozenset[int] = frozenset()
    unk_id: int | None = None
    adds_bos: bool = False
    chat_template: str | None = None


def spelled(tokenizer: Any) -> tuple[Spelling | None, tuple[str, ...]]:
    r"""A tokenizer in the words of its files, if it is one of byte-level BPE.

    Args:
        tokenizer: one of ours.
    Returns: the spelling and no note; or None and a note that says why the files can hold token ids only.
    """
    ids_only = "the files hold no tokenizer: whoever uses them gives and gets token ids"
    if isinstance(tokenizer, ByteLevelBPE):
        return _spelled_byte_level(tokenizer), ()
    if not isinstance(tokenizer, BPETokenizer | ByteTokenizer):
        return None, (f"{type(tokenizer).__name__} is no byte-level BPE; {ids_only}",)
    merges = tokenizer.merges if isinstance(tokenizer, BPETokenizer) else {}
    spelling = _spelled_bpe(BPETokenizer(merges), end_ids(tokenizer))
    if len(set(spelling.tokens)) < len(spelling.tokens):
        twice = next(token for i, token in enumerate(spelling.tokens) if token in spelling.tokens[:i])
        return None, (f"the merges make the token {twice!r} in two ways, with two ids, and files name a token by its "
                      f"text; {ids_only}",)
    return spelling, ()


def tokenizer_json(spelling: Spelling) -> dict[str, Any]:
    r"""The file tokenizer.json.

    Args:
        spelling: of the tokenizer.
    Returns: JSON data, as the library tokenizers reads it.
    """
    tokens, bos_id = spelling.tokens, spelling.ends["bos"]
    added = [
        {"id": i, "content": tokens[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": i in spelling.special} for i in sorted(spelling.special | spelling.whole)]
    model = {
        "type": "BPE", "dropout": None,
        "unk_token": None if spelling.unk_id is None else tokens[spelling.unk_id], "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
        "vocab": {token: i for i, token in enumerate(tokens)}, "merges": [list(pair) for pair in spelling.merges]}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": dict(spelling.pre_tokenizer), "decoder": _byte_level(True), "model": model,
        "post_processor": _begin(tokens[bos_id], bos_id) if spelling.adds_bos and bos_id is not None else None}


def tokenizer_config(spelling: Spelling, max_seq_len: int) -> dict[str, Any]:
    r"""The file tokenizer_config.json.

    Args:
        spelling: of the tokenizer.
        max_seq_len: of the model.
    Returns: JSON data, as transformers reads it.
    """
    ends = {f"{name}_token": None if i is None else spelling.tokens[i] for name, i in spelling.ends.items()}
    template = {} if spelling.chat_template is None else {"chat_template": spelling.chat_template}
    return {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_seq_len,
            "clean_up_tokenization_spaces": False, "add_bos_token": spelling.adds_bos, **ends, **template}


def gguf_tokens(spelling: Spelling, vocab_size: int) -> tuple[list[str], list[int]]:
    r"""The tokens as a GGUF file lists them: one for each row of the embedding.

    Args:
        spelling: of the tokenizer.
        vocab_size: rows; those that the tokenizer has no token for get one that is marked as unused.
    Returns: tokens and their types.
    """
    n_spare = vocab_size - len(spelling.tokens)
    tokens = [*spelling.tokens, *(f"[PAD{len(spelling.tokens) + i}]" for i in range(n_spare))]
    types = [CONTROL if i in spelling.special else USER_DEFINED if i in spelling.whole else NORMAL
             for i in range(len(spelling.tokens))]
    return tokens, types + [UNUSED] * n_spare


def _spelled_bpe(tokenizer: BPETokenizer, ends: Mapping[str, int | None]) -> Spelling:
    tokens = tuple("".join(BYTE_ALPHABET[byte] for byte in token) for token in tokenizer.token_bytes)
    cut = {"type": "Split", "pattern": {"Regex": CHUNK}, "behavior": "Isolated", "invert": False}
    pre_tokenizer = {"type": "Sequence", "pretokenizers": [cut, _byte_level(False)]}
    merges = tuple((tokens[left], tokens[right]) for left, right in tokenizer.merges)
    return Spelling(tokens, merges, pre_tokenizer, "gpt-2", ends)


def _spelled_byte_level(tokenizer: ByteLevelBPE) -> Spelling:
    digits = {"type": "Digits", "individual_digits": True}
    by_name = {"gpt-2": _byte_level(True),
               "smollm": {"type": "Sequence", "pretokenizers": [digits, _byte_level(True)]}}
    return Spelling(
        tuple(tokenizer.tokens), tuple(tokenizer.merges), by_name[tokenizer.pre_tokenizer], tokenizer.pre_tokenizer,
        end_ids(tokenizer), frozenset(tokenizer.special_ids), frozenset(tokenizer.whole_ids),
        getattr(tokenizer, "unk_id", None), tokenizer.adds_bos, tokenizer.chat_template)


def _begin(token: str, token_id: int) -> dict[str, Any]:
    begin, first, second = {"SpecialToken": {"id": token, "type_id": 0}}, *(
        {"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {"type": "TemplateProcessing", "single": [begin, first], "pair": [begin, first, begin, second],
            "special_tokens": {token: {"id": token, "ids": [token_id], "tokens": [token]}}}


def _byte_level(cut: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": cut}
