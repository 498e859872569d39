r"""The texts that a beam search has finished, ranked by score and length."""

from collections.abc import Sequence


class FinishedTexts:
    r"""The best finished texts of one prompt.

    Args:
        n_beams: how many are wanted.
        length_penalty: a text's score is its log-probability / its length ** length_penalty.
        max_new_tokens: how long a text may become.
    Lesson: 09.
    """

    def __init__(self, n_beams: int, length_penalty: float, max_new_tokens: int):
        self._n_beams, self._length_penalty, self._longest = n_beams, length_penalty, max_new_tokens
        self._texts: list[tuple[float, Sequence[int]]] = []

    def add(self, log_prob: float, written: Sequence[int]) -> None:
        r"""Take up a text.

        Args:
            log_prob: of all its tokens.
            written: the tokens, at least one, the stop token included.
        """
        self._texts.append((self._score(log_prob, len(written)), written))
        self._texts.sort(key=lambda text: -text[0])  # stable: of equal scores the earlier stays in front
        del self._texts[self._n_beams :]

    def complete(self, best_alive: float, n_new: int) -> bool:
        r"""Whether nothing that is still being written can come among the best.

        A beam's log-probability can only fall. What its text may score at best is what it has now, divided by the
        length that suits it best: the shortest or the longest that it may get.

        Args:
            best_alive: log-probability of the best beam that is alive; -inf if there is none.
            n_new: tokens that it has written.
        Returns: True if the search may end for this prompt.
        """
        if best_alive == float("-inf"):
            return True
        reachable = max(self._score(best_alive, length) for length in (n_new + 1, self._longest))
        return len(self._texts) == self._n_beams and self._texts[-1][0] >= reachable

    def best(self) -> list[tuple[float, Sequence[int]]]:
        r"""Give the texts.

        Returns: (score, tokens) of at most n_beams texts, the best first.
        """
        return list(self._texts)

    def _score(self, log_prob: float, length: int) -> float:
        return log_prob / length**self._length_penalty
