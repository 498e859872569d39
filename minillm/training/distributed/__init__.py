r"""A run on several devices or machines, by torch.distributed: the same loop, the same batches, the same losses.

`launch` joins the processes that torchrun started, `ranks` is what the loop knows of them, `fsdp` keeps the weights in
pieces, `shards` writes checkpoints that every process has its part in. How these work inside is in
`training.data_parallel` and `training.zero`, which build them from single messages.
"""
