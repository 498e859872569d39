r"""One file a table: what is compared, and what is measured.

For a table NAME the file `NAME.py` has a function `NAME_table(seeds) -> list[Row]`; the command line finds it by that.
`harness.py` holds what all tables share: the text, the small model, the training.
"""
