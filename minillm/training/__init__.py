r"""Making a model learn: the loop, and around it one file an idea.

Read them in this order: `schedule`, `clipping`, `accumulation`, `optimizer`, `precision`, `flat`, then `loop`, which
puts them together; `checkpoint` keeps what was learned; `distributed` has several processes do it together.
"""
