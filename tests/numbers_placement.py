r"""What `tests/pretend_numbers.py` itself must do: right numbers in their places, and nothing forgotten unfound."""

import torch
import torch.nn.functional as F
from torch import nn

from tests import pretend_numbers


def in_place(device):
    r"""Writing through views, through masks, and back into the same tensor."""
    x = torch.arange(6.0, device=device).view(2, 3)
    row = x[0]
    row[1] = 7
    x[:, 2].mul_(2)
    x[x > 9] = 0
    assert x.add_(1) is x
    return x


def into_another(device):
    r"""Two results at once, and both where they were asked for."""
    values, order = torch.zeros(3, device=device), torch.zeros(3, dtype=torch.int64, device=device)
    given = torch.sort(torch.tensor([3.0, 1.0, 2.0], device=device), out=(values, order))
    assert given[0] is values and given[1] is order
    return values + order


def asked_for_numbers(device):
    r"""All ways out of a tensor into Python."""
    x = torch.tensor([[1, 2], [3, 4]], device=device)
    assert bool((x[0] < x[1]).all()) and int(x[0, 1]) == 2 and f"{x[1, 0]:02d}" == "03" and [0, 1, 2][x[0, 0]] == 1
    return x.new_tensor([x[1, 1].item(), *x.tolist()[0], *x.max(dim=0).values.cpu().numpy()])


def moved(device):
    r"""There and back, and into memory on the other side."""
    there = torch.ones(2).to(device)
    here = torch.zeros(2)
    assert here.copy_(there) is here and here.device.type == "cpu" and type(here) is torch.Tensor
    assert there[:1].copy_(torch.full((1,), 5.0)).device == there.device == torch.zeros_like(there).device
    return torch.cat([there, here.to(there), torch.zeros_like(there, device="cpu").to(device)])


def module(device):
    r"""A module that is made on the CPU, turned into another dtype there and carried over; in inference mode."""
    linear = nn.Linear(2, 1)
    with torch.inference_mode():
        linear.weight.copy_(torch.tensor([[2.0, 3.0]]))
        linear.bias.zero_()
        linear.to(device).double()
        return linear(torch.ones(1, 2, dtype=torch.float64, device=device))


def gradients(device):
    r"""Back through a view and a product."""
    with torch.enable_grad():
        x = torch.arange(3.0, device=device).requires_grad_()
        (x[1:] * torch.tensor([5.0, 7.0], device=device)).sum().backward()
    return x.grad


ONE = torch.tensor(1.0)
WORKS = {
    "in place": (in_place, [[1.0, 8.0, 5.0], [4.0, 5.0, 1.0]]),
    "into another": (into_another, [2.0, 4.0, 3.0]),
    "asked for numbers": (asked_for_numbers, [4, 1, 2, 3, 4]),
    "moved": (moved, [5.0, 1.0, 1.0, 1.0, 0.0, 0.0]),
    "module": (module, [[5.0]]),
    "gradients": (gradients, [0.0, 5.0, 7.0]),
    "made there": (lambda device: with_device(device, lambda: torch.arange(3) + torch.tensor([1, 2, 3])), [1, 3, 5]),
    "single numbers": (lambda device: torch.where(
        torch.zeros(2, device=device) < ONE, ONE, 0.0).masked_fill_(torch.ones(2, device=device) > 1, ONE), [1.0, 1.0]),
}  # fmt: skip
FORGOTTEN = {
    "mask": lambda device: torch.ones(2, device=device).masked_fill(torch.ones(2) > 0, 0.0),
    "positions": lambda device: torch.ones(2, device=device) + torch.arange(2),
    "target": lambda device: F.cross_entropy(torch.ones(1, 2, device=device), torch.tensor([1])),
    "matrix": lambda device: torch.ones(1, 2, device=device) @ torch.ones(2, 1),
    "token ids": lambda device: F.embedding(torch.tensor([0]), torch.ones(2, 3, device=device)),
    "index": lambda device: torch.ones(2, device=device)[torch.tensor([0])],
    "indexed": lambda device: torch.ones(2)[torch.tensor([0], device=device)],
    "written": lambda device: torch.ones(2, device=device).index_put_(
        (torch.tensor([1], device=device),), torch.ones(1)),
    "written to": lambda device: torch.ones(2).add_(torch.ones(2, device=device)),
    "written to a single": lambda device: torch.ones(()).add_(torch.ones((), device=device)),
    "single in a list": lambda device: torch.stack([torch.ones((), device=device), ONE]),
    "single mask": lambda device: torch.ones(2, device=device).masked_fill(ONE > 0, 0.0),
    "generator": lambda device: torch.rand(2, device=device, generator=torch.Generator()),
    "out": lambda device: torch.add(torch.ones(2, device=device), 1, out=torch.zeros(2)),
}
WRONG = {
    "forgets its device": lambda device: torch.ones(2),
    "other numbers": lambda device: torch.full((2,), float(device == "cpu"), device=device),
    "other dtype": lambda device: torch.ones(2, device=device).to(torch.float32 if device == "cpu" else torch.float64),
    "other way": lambda device: torch.ones(2, device=device),
    "another shape": lambda device: torch.ones(1, 2, device=device).t_(),
}


def with_device(device, make):
    r"""What is made while torch is told where."""
    with torch.device(device):
        return make()


if __name__ == "__main__":
    wanted = {name: lambda numbers=numbers: torch.tensor(numbers) for name, (_, numbers) in WORKS.items()}
    wanted |= {"module": lambda: torch.tensor([[5.0]], dtype=torch.float64), "other way": lambda: torch.zeros(2)}
    right = {name: case for name, (case, _) in WORKS.items()}
    pretend_numbers.tell_numbers({**right, **FORGOTTEN, **WRONG}, wanted)
    assert not torch._C._only_lift_cpu_tensors()  # torch is left as it was found
