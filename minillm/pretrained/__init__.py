r"""Real weights in and out: models of other code bases, made into ours.

Each family has a file of its own, which says three things and computes nothing: which options of its configuration it
honours, the `ModelConfig` that they come to, and where each weight goes. What differs between families is data.
"""

from minillm.pretrained.convert import FAMILIES, from_hf
from minillm.pretrained.loading import load_pretrained as load

__all__ = ["FAMILIES", "from_hf", "load"]
