r"""From a regular expression to a finite automaton over bytes: a table that says where each byte leads."""

from dataclasses import dataclass

import torch
from torch import Tensor

from minillm.inference.constrained.parsing import CharSet, InTurn, Node, OneOf, Repeated, parse_regex
from minillm.inference.constrained.utf8_ranges import utf8_ranges

DEAD, START = 0, 1
MOST_STATES = 5_000


@dataclass(frozen=True)
class Automaton:
    r"""States and where each byte leads from each.

    State 0 is dead: no way leads out of it. State 1 is where a text begins.

    Args:
        table: (n_states, 256), int64: the next state.
        accepting: (n_states,), bool: whether a text that ends there matches.
    Lesson: 09.
    """

    table: Tensor
    accepting: Tensor

    def walk(self, text: bytes, state: int = START) -> int:
        r"""Follow some bytes.

        Args:
            text: any bytes.
            state: from where.
        Returns: the state that they lead to.
        """
        for byte in text:
            state = int(self.table[state, byte])
        return state

    def matches(self, text: str) -> bool:
        r"""Whether the whole text matches the pattern.

        Args:
            text: any text.
        Returns: what re.fullmatch would find.
        """
        return bool(self.accepting[self.walk(text.encode("utf-8", "surrogatepass"))])


def compile_regex(pattern: str) -> Automaton:
    r"""Turn a pattern into an automaton that accepts the texts which match as a whole.

    First small automata that may be in several states at once are put together, one for each part of the pattern. Then
    every *set* of states in which that one can be becomes a single state.

    Args:
        pattern: as `parse_regex` takes it.
    Returns: the automaton.
    Raises:
        ValueError: if the pattern can't be read, or needs more than 5 000 states.
    Source: Thompson 1968, Regular Expression Search Algorithm; Rabin and Scott 1959, theorem 11, for the sets.
    Lesson: 09.
    """
    many = _ManyStates()
    start = many.new_state()
    end = many.add(parse_regex(pattern), start)
    start_set = many.closed({start})
    numbers = {frozenset(): DEAD, start_set: START}
    rows, todo = [[DEAD] * 256], [start_set]
    for states in todo:  # grows while we walk
        row = []
        for reached in many.targets_by_byte(states):
            if reached not in numbers:
                if len(numbers) == MOST_STATES:
                    raise ValueError(f"pattern {pattern!r} needs more than {MOST_STATES} states; repeat less")
                numbers[reached] = len(numbers)
                todo.append(reached)
            row.append(numbers[reached])
        rows.append(row)
    return Automaton(torch.tensor(rows), torch.tensor([end in states for states in numbers]))


class _ManyStates:
    r"""An automaton that may be in several states at once: ways over a range of bytes, and ways over nothing."""

    def __init__(self):
        self.over_bytes: list[list[tuple[int, int, int]]] = []
        self.over_nothing: list[list[int]] = []

    def new_state(self) -> int:
        if len(self.over_bytes) > 10 * MOST_STATES:
            raise ValueError("the pattern is too large; repeat less in {m,n}")
        self.over_bytes.append([])
        self.over_nothing.append([])
        return len(self.over_bytes) - 1

    def add(self, node: Node, start: int) -> int:
        r"""Build ways for a node from `start`, and return the state where they end."""
        if isinstance(node, CharSet):
            end = self.new_state()
            for first, last in node.ranges:
                for product in utf8_ranges(first, last):
                    self._add_bytes(product, start, end)
            return end
        if isinstance(node, InTurn):
            for part in node.parts:
                start = self.add(part, start)
            return start
        if isinstance(node, OneOf):
            end = self.new_state()
            for part in node.parts:
                self.over_nothing[self.add(part, start)].append(end)
            return end
        return self._add_repeated(node, start)

    def _add_bytes(self, product, start: int, end: int) -> None:
        for first, last in product[:-1]:
            middle = self.new_state()
            self.over_bytes[start].append((first, last, middle))
            start = middle
        self.over_bytes[start].append((*product[-1], end))

    def _add_repeated(self, node: Repeated, start: int) -> int:
        for _ in range(node.least):
            start = self.add(node.part, start)
        if node.most is None:  # a loop, with a door in front, so that no way from outside leads into its middle
            door = self.new_state()
            self.over_nothing[start].append(door)
            self.over_nothing[self.add(node.part, door)].append(door)
            end = self.new_state()
            self.over_nothing[door].append(end)
            return end
        end = self.new_state()
        for _ in range(node.most - node.least):
            self.over_nothing[start].append(end)
            start = self.add(node.part, start)
        self.over_nothing[start].append(end)
        return end

    def closed(self, states: set[int]) -> frozenset[int]:
        r"""The states, and all that are reached from them over nothing."""
        todo, reached = list(states), set(states)
        while todo:
            for target in self.over_nothing[todo.pop()]:
                if target not in reached:
                    reached.add(target)
                    todo.append(target)
        return frozenset(reached)

    def targets_by_byte(self, states: frozenset[int]) -> list[frozenset[int]]:
        r"""For each of the 256 bytes the closed set of states that it leads to; equal ones are made once."""
        ways = [way for state in states for way in self.over_bytes[state]]
        edges = sorted({0, 256, *(first for first, _, _ in ways), *(last + 1 for _, last, _ in ways)})
        targets: list[frozenset[int]] = []
        for low, beyond in zip(edges, edges[1:], strict=False):
            reached = self.closed({target for first, last, target in ways if first <= low <= last})
            targets += [reached] * (beyond - low)
        return targets
