r"""Two detours from language models: autoencoders on drawn moons, and support vector machines with kernels."""
