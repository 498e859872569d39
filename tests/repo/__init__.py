r"""The house rules, held by machine."""
