r"""How far a model's predictions are from those of another: the price of a smaller one, in nats."""

from jaxtyping import Float
from torch import Tensor


def mean_kl(exact: Float[Tensor, "*batch V"], approximate: Float[Tensor, "..."]) -> float:
    r"""The Kullback-Leibler divergence from one model's next-token probabilities to another's, averaged over places.

    It is what texts of the first model cost the second, per token, beyond what they cost the first: 0 for the same
    probabilities, and never less.

    Args:
        exact: logits of the first model, (..., V), float.
        approximate: logits of the second at the same places, (..., V), float.
    Returns: nats a token.
    Raises:
        ValueError: if the shapes differ.
    Source: Kullback and Leibler 1951, On Information and Sufficiency, equation 2.4.
    Lesson: 11.
    """
    if exact.shape != approximate.shape:
        raise ValueError(f"exact {tuple(exact.shape)}, approximate {tuple(approximate.shape)}: give logits of the same "
                         "places and vocabulary")
    p, q = exact.double().log_softmax(dim=-1), approximate.double().log_softmax(dim=-1)
    return float((p.exp() * (p - q)).nansum(dim=-1).mean())  # a token that p rules out (0 * inf) counts nothing
