r"""Pooling, embedding and the logit lens on a device that does not exist, see `tests/pretend.py`."""

import torch

from minillm.config import preset
from minillm.inference import logit_lens, long_text, pooling
from minillm.inference.retrieval import dense
from minillm.model.gpt import GPT
from tests import pretend

CASES = {
    "mean": lambda hidden, mask: pooling.mean_pool(hidden, mask),
    "last token": lambda hidden, mask: pooling.last_token_pool(hidden, mask),
    "index": lambda hidden, mask: dense.DenseIndex(hidden[0]).scores(hidden[0, 0]),
    "lens": lambda hidden, mask: logit_lens.lens_logits(small_model(), mask.long()),
    "sliding window": lambda hidden, mask: slid_over(small_model(), mask),
    "left behind": lambda hidden, mask: hidden[torch.arange(2), 0] + torch.zeros(4),  # to be found out
}


def small_model():
    r"""A GPT made on the device."""
    with torch.device("pretend"):
        return GPT(preset("tiny", vocab_size=11)).eval()


def slid_over(model, mask):
    r"""Something on the device, if a text that lies on the CPU could be priced; the prices are on the CPU."""
    nats = long_text.sliding_nats(model, torch.zeros(9, dtype=torch.int64), window=4, stride=2)
    assert nats.shape == (8,) and nats.device.type == "cpu"
    return mask


def hidden_and_mask():
    r"""What every function is called with."""
    return torch.empty(2, 5, 4, device="pretend"), torch.empty(2, 5, dtype=torch.bool, device="pretend")


if __name__ == "__main__":
    pretend.tell_devices(CASES, hidden_and_mask)
