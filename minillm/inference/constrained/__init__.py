r"""Text that must match a pattern: a regex becomes an automaton, and the automaton says which tokens may come next."""
