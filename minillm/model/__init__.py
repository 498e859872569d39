r"""The assembly: blocks and models; the only readers of `ModelConfig`."""
