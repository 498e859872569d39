r"""Tables that are too heavy for a lesson: variants of one small model, trained alike and measured alike.

`python -m minillm bench TABLE` makes one; `variants/` says what is compared, `results/` holds the stored tables.
"""
