r"""DeepNorm's two constants: alpha weighs the stream, beta shrinks fresh weights."""


def deepnorm_constants(
    n_layers: int, kind: str = "decoder-only", n_decoder_layers: int | None = None
) -> tuple[float, float]:
    r"""DeepNorm's (alpha, beta) for a stack of n_layers blocks.

    Both keep the first updates of a model small, whatever its depth: alpha grows and beta shrinks with about the
    fourth root of the number of layers.

    Args:
        n_layers: blocks in this stack, >= 1; the paper's N for an encoder, M for a decoder.
        kind: `decoder-only`, `encoder-only`, or, in an encoder-decoder, `encoder` or `decoder`.
        n_decoder_layers: M, needed for `encoder` and not used by the other three.
    Returns: alpha, the factor on the stream x in norm(alpha * x + part(x)); beta, the gain with which the weights of
        the FFN, of v_proj and of o_proj are drawn (q_proj and k_proj keep gain 1).
    Raises:
        ValueError: if a number of layers is below 1, kind is unknown, or `encoder` comes without n_decoder_layers.
    Source: Wang et al. 2022, DeepNet: Scaling Transformers to 1,000 Layers, the table of figure 2.
    Lesson: 05.
    """
    if n_layers < 1:
        raise ValueError(f"n_layers={n_layers} must be at least 1: it counts the blocks of the stack")
    if kind in ("decoder-only", "encoder-only"):
        return (2 * n_layers) ** 0.25, (8 * n_layers) ** -0.25
    if kind == "decoder":
        return (3 * n_layers) ** 0.25, (12 * n_layers) ** -0.25
    if kind != "encoder":
        raise ValueError(f"kind={kind!r} is not one of 'decoder-only', 'encoder-only', 'encoder', 'decoder'")
    if n_decoder_layers is None or n_decoder_layers < 1:
        raise ValueError(f"n_decoder_layers={n_decoder_layers} must be at least 1: give the decoder's number of blocks")
    mixed = (n_layers**4 * n_decoder_layers) ** (1 / 16)
    return 0.81 * mixed, 0.87 / mixed
