r"""Caches of other kinds: for a window, in blocks, shared, with sinks, in 8 bits; and what a cache weighs.

Each module has a layer cache and a function that makes one for every block of a model. A layer cache has
`append(k, v, positions) -> (k, v, kv_positions)`, `length` and `capacity`, and attention knows nothing else of it.
Masks are made from positions, so a cache may hand back its keys in any order, and with gaps of position -1.
"""
