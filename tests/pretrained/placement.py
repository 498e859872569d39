r"""A file loaded in every weight type onto a device that does not exist, see `tests/pretend.py`."""

import tempfile
from pathlib import Path

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from minillm.inference.quantization import convert, linears
from minillm.pretrained import loading
from tests import pretend
from tests.pretrained.test_gguf_file import write_llama

WEIGHTS = [*loading.DTYPES, *convert.WEIGHTS]


def devices_of_a_model(path: Path, weights: str, leave_behind: bool = False) -> set[str]:
    r"""Where a loaded model lies, and what it says of a prompt and of one more token, with a cache."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():  # a file's tensors are real ones
        model = loading.load_model(path, weights, "pretend")
        if leave_behind:
            down = model.blocks[1].ffn.down_proj
            down.scales = torch.ones(down.scales.shape, dtype=down.scales.dtype)
        prompt, more = (torch.zeros(2, n, dtype=torch.int64, device="pretend") for n in (5, 1))
        cache = model.new_cache(2, 6)
        said = [model(prompt), model(prompt, cache=cache), model(more, cache=cache)]
        return {str(tensor.device) for tensor in (*model.parameters(), *model.buffers(), *said)}


def moved(model: nn.Module, device: str) -> nn.Module:
    r"""As torch's `Module.to`, which cannot do it to parameters without numbers."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(parameter.to(device)))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    return model


def main():
    r"""Every weight type in turn, and one that must be found out."""
    pretend.teach()
    torch.equal = lambda one, other: True  # there are no numbers to compare
    nn.Module.to = moved
    linears._narrowed = lambda scales, lows: (scales.half(), lows.half())  # nor to look at
    with tempfile.TemporaryDirectory() as folder:
        path = write_llama(Path(folder) / "small.gguf")
        for weights in WEIGHTS:
            print(weights, *sorted(devices_of_a_model(path, weights)))
        for weights in convert.WEIGHTS:
            try:
                print("not found:", devices_of_a_model(path, weights, leave_behind=True))
            except RuntimeError as error:
                print("found:", str(error).splitlines()[0])


if __name__ == "__main__":
    main()
