r"""What a layer of attention costs, counted from its sizes: weights, memory between tokens, work, largest table."""

from dataclasses import dataclass

KINDS = ("MHA", "GQA", "MQA", "MLA", "window", "linear", "RWKV", "Infini")


@dataclass(frozen=True, kw_only=True)
class AttentionSizes:
    r"""The sizes that the variants are built from; each variant uses those that it knows.

    Args:
        d_model: D.
        n_heads: H.
        head_dim: Dh; of MLA the unrotated part, and its values' width.
        n_kv_heads: Hk of GQA.
        kv_rank: R of MLA.
        rope_dim: Dr of MLA.
        window: of the sliding window, in tokens.
        segment_len: of Infini-attention, in tokens.
    Lesson: 03.
    """

    d_model: int
    n_heads: int
    head_dim: int
    n_kv_heads: int
    kv_rank: int
    rope_dim: int
    window: int
    segment_len: int


def attention_weights_count(kind: str, sizes: AttentionSizes) -> int:
    r"""How many trained numbers one layer has.

    Args:
        kind: one of KINDS.
        sizes: of the layer.
    Returns: numbers, in matrices, norms, gates and decays; no biases.
    Source: the shapes themselves, as in `Attention`, `MultiHeadLatentAttention` and their kin.
    Lesson: 03.
    """
    others = {"MLA": sizes.kv_rank, "RWKV": 5 * sizes.d_model, "Infini": sizes.n_heads}
    return matrix_numbers(kind, sizes) + others.get(kind, 0)


def matrix_numbers(kind: str, sizes: AttentionSizes) -> int:
    r"""How many of them are in matrices: each is multiplied once for every token.

    Args:
        kind: one of KINDS.
        sizes: of the layer.
    Returns: numbers.
    Raises:
        ValueError: if there is no such kind.
    Source: the shapes themselves.
    Lesson: 03.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: choose one of {', '.join(KINDS)}")
    s, width = sizes, sizes.n_heads * sizes.head_dim
    if kind == "MLA":
        into = s.d_model * (s.n_heads * (s.head_dim + s.rope_dim) + s.kv_rank + s.rope_dim)
        return into + s.kv_rank * 2 * width + width * s.d_model
    if kind == "RWKV":
        return 4 * s.d_model**2
    return 2 * s.d_model * width + 2 * s.d_model * kv_heads(kind, s) * s.head_dim


def kv_heads(kind: str, sizes: AttentionSizes) -> int:
    r"""Key/value heads of a variant that has heads of keys.

    Args:
        kind: one of KINDS.
        sizes: of the layer.
    Returns: 1 for MQA, Hk for GQA, else H.
    Source: Ainslie et al. 2023, GQA, section 2.2.
    Lesson: 03.
    """
    return {"MQA": 1, "GQA": sizes.n_kv_heads}.get(kind, sizes.n_heads)


def kept_floats(kind: str, sizes: AttentionSizes, kv_len: int) -> int:
    r"""How many numbers one layer must keep of a text, so that the next token can be computed.

    Args:
        kind: one of KINDS.
        sizes: of the layer.
        kv_len: tokens so far.
    Returns: numbers for one sequence.
    Source: DeepSeek-AI 2024, DeepSeek-V2, table 1 (MHA, GQA, MQA, MLA); the others from their recurrences.
    Lesson: 03.
    """
    s, memory = sizes, sizes.n_heads * (sizes.head_dim**2 + sizes.head_dim)
    if kind == "MLA":
        return (s.kv_rank + s.rope_dim) * kv_len
    if kind == "linear":
        return memory
    if kind == "RWKV":
        return 4 * s.d_model  # numerator, denominator, largest exponent, and the token before
    per_token = 2 * kv_heads(kind, s) * s.head_dim
    if kind == "Infini":
        return memory + per_token * (kv_len % s.segment_len)  # full segments are in the memory
    return per_token * (min(kv_len, s.window) if kind == "window" else kv_len)


def step_flops(kind: str, sizes: AttentionSizes, kv_len: int) -> int:
    r"""Operations in matrix products for one new token; a multiply and an add are two.

    Sharing keys saves no multiplication: every query head still meets every key. MLA takes its absorbed form.

    Args:
        kind: one of KINDS.
        sizes: of the layer.
        kv_len: tokens so far, the new one included.
    Returns: operations, projections included; exponentials, decays and sums without a product are left out.
    Source: the shapes themselves.
    Lesson: 03.
    """
    s, projections = sizes, 2 * matrix_numbers(kind, sizes)
    pair = 4 * s.n_heads * s.head_dim  # one score, one weighted value, in each head
    read = s.n_heads * (2 * s.head_dim**2 + 2 * s.head_dim)
    write = s.n_heads * 2 * s.head_dim**2
    if kind == "MLA":
        # kv_up is not applied to a token but absorbed: the same number of multiplications, on the query's side.
        return projections + 2 * s.n_heads * kv_len * (2 * s.kv_rank + s.rope_dim)
    if kind == "linear":
        return projections + write + read
    if kind == "RWKV":
        return projections
    if kind == "Infini":
        return projections + pair * ((kv_len - 1) % s.segment_len + 1) + read + write
    return projections + pair * (min(kv_len, s.window) if kind == "window" else kv_len)


def largest_tensor(kind: str, sizes: AttentionSizes, seq_len: int, tile_len: int | None = None) -> int:
    r"""Numbers in the largest tensor that attention makes while it reads a whole text at once.

    Args:
        kind: one of KINDS.
        sizes: of the layer.
        seq_len: T.
        tile_len: keys and queries in a tile (flash attention); None = the whole table of scores at once.
    Returns: numbers, the largest of table, memories and the projected queries, keys and values.
    Source: the shapes that this package's functions make; other orders of computing make others.
    Lesson: 03.
    """
    s, width = sizes, sizes.n_heads * sizes.head_dim
    projected = seq_len * max(width, s.d_model)
    if kind == "linear":
        return max(projected, seq_len * s.n_heads * s.head_dim**2)  # one memory for each token: `cumsum`
    if kind == "RWKV":
        return seq_len * s.d_model
    if kind == "Infini":  # segment by segment
        return max(projected, s.n_heads * min(seq_len, s.segment_len) ** 2, s.n_heads * s.head_dim**2)
    if kind == "MLA":
        projected = max(seq_len * s.n_heads * (s.head_dim + s.rope_dim), projected)
    table = s.n_heads * (seq_len if tile_len is None else min(tile_len, seq_len)) ** 2
    return max(projected, table)
