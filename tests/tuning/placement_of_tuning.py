r"""Tuned models on a device that does not exist, see `tests/pretend.py`: made, trained a step, and cached."""

from functools import partial

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from minillm.config import Glu, preset
from minillm.model.gpt import GPT
from minillm.training import accumulation, loop, precision, state
from minillm.training.recipe import Recipe
from minillm.tuning.card import small_tensors
from minillm.tuning.lora_linear import lora_layers
from minillm.tuning.lora_model import merged_model
from tests import pretend
from tests.training.placement import fused_adamw
from tests.tuning.every_method import VOCAB, tuned_by

METHODS = ("lora", "dora", "qlora", "p_tuning_v2")  # the others look at numbers, or are moved after they are made


def devices_of(name, dtype):
    r"""Where everything lies after a training step, a step with a cache, and a merge."""
    with FakeTensorMode():
        with torch.device("pretend"):
            base = GPT(preset("tiny-llama", vocab_size=VOCAB, max_seq_len=40, d_model=16, n_heads=4, n_kv_heads=2,
                              head_dim=8, ffn=Glu(24)))
            ids = torch.zeros(2, 9, dtype=torch.int64)
        model = tuned_by(base, [name])
        run = state.TrainingState(model.train(), Recipe(dtype=dtype))
        with run.weights.attached(precision.DTYPES[dtype]):
            mean_loss = partial(accumulation.batch_loss, run.weights.forward)
            loss, norm = loop.training_step(run, mean_loss, [(ids, ids)] * 2, 1e-3)
        logits = model.eval()(ids, cache=model.new_cache(2, 9))
        plain = merged_model(model) if lora_layers(model) and name != "qlora" else model
        return {str(tensor.device) for tensor in (
            loss, norm, logits, *run.tensors().values(), *small_tensors(model).values(), *plain.parameters())}


def main():
    r"""These methods in two formats."""
    pretend.teach()
    FakeTensor.is_cuda = property(lambda tensor: tensor.device.type == "pretend")  # so that it takes a GPU's path
    accumulation.count_targets = lambda targets: 7  # there is nothing to count; it is done on the CPU
    state.make_adamw = fused_adamw
    for name in METHODS:
        for dtype in ("fp32", "bf16"):
            try:
                print(name, dtype, *sorted(devices_of(name, dtype)))
            except RuntimeError as error:
                print(name, dtype, str(error).splitlines()[0])


if __name__ == "__main__":
    main()
