r"""A training step on a device that does not exist, see `tests/pretend.py`."""

from functools import partial

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from minillm.config import Alibi, AttentionOptions, Glu, Norm, Rope, T5Bias, preset
from minillm.model.gpt import GPT
from minillm.training import accumulation, loop, precision, state
from minillm.training.recipe import Recipe
from tests import pretend
from tests.training.small import VOCAB, counting_batches

SIZES = dict(vocab_size=VOCAB, max_seq_len=12, d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, head_dim=8)
MODELS = {
    "gpt": {}, "dropout": {"dropout": 0.1},
    "llama": {"position": Rope(), "norm": Norm(kind="rms"), "ffn": Glu(24), "tie_embeddings": False},
    "window": {"position": Alibi(), "attention": AttentionOptions(window=3)}, "t5": {"position": T5Bias()},
}  # fmt: skip


class LeftBehind(torch.nn.Module):
    r"""A model with a famous mistake: what it makes while it runs lies on the CPU."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, token_ids):
        logits = self.model(token_ids)
        return logits * torch.arange(1, logits.shape[-1] + 1)


def fused_adamw(decayed, plain, betas, weight_decay):
    r"""The optimizer as a GPU has it."""
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=True)


def devices_of_a_step(changes, dtype, wrap=lambda model: model):
    r"""Where everything lies after a training step of two batches."""
    batch = next(counting_batches(torch.Generator().manual_seed(0)))
    with FakeTensorMode() as mode:
        with torch.device("pretend"):
            model = wrap(GPT(preset("tiny", **{**SIZES, **changes})))
        run = state.TrainingState(model.train(), Recipe(dtype=dtype))
        batches = [tuple(map(mode.from_tensor, batch))] * 2
        with run.weights.attached(precision.DTYPES[dtype]):
            mean_loss = partial(accumulation.batch_loss, run.weights.forward)
            loss, norm = loop.training_step(run, mean_loss, batches, 1e-3)
        return {str(tensor.device) for tensor in (loss, norm, *run.tensors().values())}


def main():
    r"""Every model in every format, and one that must be found out."""
    pretend.teach()
    FakeTensor.is_cuda = property(lambda tensor: tensor.device.type == "pretend")  # so that it takes a GPU's path
    accumulation.count_targets = lambda targets: 7  # there is nothing to count; it is done on the CPU
    state.make_adamw = fused_adamw
    for name, changes in MODELS.items():
        for dtype in ("fp32", "bf16"):
            print(name, dtype, *sorted(devices_of_a_step(changes, dtype)))
    try:
        devices_of_a_step({}, "fp32", LeftBehind)
    except RuntimeError as error:
        print("found:", str(error).splitlines()[0])


if __name__ == "__main__":
    main()
