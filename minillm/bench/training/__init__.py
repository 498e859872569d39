r"""How fast a model is trained: ours and a peer, the same model on the same batches, in turns."""
