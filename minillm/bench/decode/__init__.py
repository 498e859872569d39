r"""How fast a real model writes: ours and the peers, the same weights and prompts, in turns."""
