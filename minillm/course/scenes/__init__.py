r"""What single lessons show: their pictures, explorers and things to watch while a model trains."""
