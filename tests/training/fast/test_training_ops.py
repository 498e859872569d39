r"""The kernel's functions one by one, against whole numbers, torch in float64 and its autograd."""

import pytest
import torch
import torch.nn.functional as F

from minillm.layers import rope
from minillm.training.fast.chain import KINDS, Chain
from minillm.training.fast.ops import HeadSizes, Layouts, layouts
from tests.training.fast.kernel_ops import VERSIONS, ops_of, random_bf16, unpaired, whole_numbers

CURVES = {"gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "relu": F.relu,
          "relu_squared": lambda x: F.relu(x).square(), "silu": F.silu}
STEP = 2.0**-8  # what rounding to bf16 may change, as a share


@pytest.fixture(params=VERSIONS.values(), ids=VERSIONS)
def ops(request):
    return ops_of(request.param)


def sizes(generator, *bounds):
    r"""Random multiples: of 2 from 8 on for the first, which is a number of rows, of 32 for the others."""
    draw = lambda low, high: int(torch.randint(low, high + 1, (), generator=generator))  # noqa: E731
    return [2 * draw(4, bounds[0] // 2), *(32 * draw(1, bound // 32) for bound in bounds[1:])]


def near(got, want, atol=0.0):
    torch.testing.assert_close(got.double(), want.double(), rtol=STEP, atol=atol)


@pytest.mark.parametrize("extra", ["", "bias", "factor", "residual"])
def test_a_product_of_whole_numbers_is_exact(ops, fresh_seed, extra):
    generator = torch.Generator().manual_seed(fresh_seed)
    rows, width, *parts = sizes(generator, 250, 160, 96, 64)
    x, weights = whole_numbers(generator, rows, width), [whole_numbers(generator, n, width) for n in parts]
    n = sum(parts)
    other = whole_numbers(generator, *((n,) if extra == "bias" else (rows, n))) if extra else None
    out, chain = layouts(rows, n), Chain(ops, rows)
    chain.product(x, ops.panels(weights), out, **({extra: other} if extra else {}))
    chain.run()
    want = x.float() @ torch.cat(weights).float().T
    if extra:
        want = want * other if extra == "factor" else want + other
    assert torch.equal(out.rows, want.bfloat16()) and torch.equal(unpaired(out.paired), want.bfloat16())


def test_a_product_with_the_weights_the_other_way_round(ops, fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    rows, width, *parts = sizes(generator, 60, 96, 96, 64)
    weights = [whole_numbers(generator, n, width) for n in parts]
    grad, out, chain = whole_numbers(generator, rows, sum(parts)), layouts(rows, width), Chain(ops, rows)
    chain.product(grad, ops.panels_back(weights), out)
    chain.run()
    assert torch.equal(out.rows, (grad.float() @ torch.cat(weights).float()).bfloat16())


def test_steps_hand_rows_on_in_scratch_and_any_number_of_threads_gives_the_same(fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    rows, width, hidden = sizes(generator, 600, 96, 160)
    x, up, down = (whole_numbers(generator, *shape) for shape in ((rows, width), (hidden, width), (width, hidden)))
    results = []
    for n_threads in (1, 2, 3):
        ops = ops_of(fast=False, n_threads=n_threads)
        chain, out = Chain(ops, rows), layouts(rows, width)
        middle = Layouts(chain.scratch(hidden), None)
        chain.product(x, ops.panels([up]), middle)
        chain.product(middle.rows, ops.panels([down]), out)
        chain.run()
        results.append(out.rows)
    want = ((x.float() @ up.float().T).bfloat16().float() @ down.float().T).bfloat16()
    assert all(torch.equal(result, want) for result in results)


def test_gradients_of_weights_are_exact_and_added_to_what_is_there(ops, fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    rows, width, *parts = sizes(generator, 1300, 96, 64, 64)
    x, grad = whole_numbers(generator, rows, width), whole_numbers(generator, rows, sum(parts))
    weights = [torch.randint(-9, 9, (n, width), generator=generator).float() for n in parts]
    biases = [torch.ones(parts[0]), None]
    before = [weight.clone() for weight in weights]
    ops.weight_grad(ops.panels_back([grad]), ops.panels_back([x]), weights, biases)
    for part, weight, old in zip(grad.split(parts, dim=1), weights, before, strict=True):
        assert torch.equal(weight - old, part.float().T @ x.float())
    assert torch.equal(biases[0], 1 + grad[:, : parts[0]].float().sum(0))


@pytest.mark.parametrize("kind", KINDS)
def test_activations_and_their_slopes(ops, kind):
    u = torch.cat([torch.linspace(-12, 12, 2001), torch.tensor([0.0, -80, 80, -1e4, 1e4])]).bfloat16()
    rows = 8
    x, weight = torch.zeros(rows, 32).bfloat16(), torch.zeros(len(u) // 32 * 32 + 32, 32).bfloat16()
    x[:, 0], weight[: len(u), 0] = 1, u  # so that every row of the product is u
    out, slope, chain = layouts(rows, len(weight)), torch.empty(rows, len(weight)).bfloat16(), Chain(ops, rows)
    chain.product(x, ops.panels([weight]), out, kind=KINDS[kind], slope=slope)
    chain.run()
    exact = u.double().requires_grad_()
    want = CURVES[kind](exact)
    (steep,) = torch.autograd.grad(want.sum(), exact)
    small = u.abs() < 100  # beyond, an error of 1e-5 in the share counts that much more
    near(out.rows[rows - 1, : len(u)][small], want[small], atol=1e-3)
    near(out.rows[rows - 1, : len(u)], want, atol=0.2)
    near(slope[0, : len(u)], steep, atol=5e-4)


@pytest.mark.parametrize("centred", [True, False])
def test_norms_and_their_way_back(ops, fresh_seed, centred):
    generator = torch.Generator().manual_seed(fresh_seed)
    rows, width = sizes(generator, 230, 160)
    x, grad, residual = (random_bf16(generator, rows, width) for _ in range(3))
    weight, bias = random_bf16(generator, width), random_bf16(generator, width) if centred else None
    out, back, chain = layouts(rows, width), layouts(rows, width), Chain(ops, rows)
    stats = chain.norm(x, weight, bias, 1e-5, centred, out)
    partial = chain.norm_back(x, weight, centred, stats, grad, residual, back)
    chain.run()
    exact = [part.double().requires_grad_() for part in (x, weight)]
    shift = None if bias is None else bias.double().requires_grad_()
    want = F.layer_norm(exact[0], (width,), exact[1], shift, 1e-5) if centred else F.rms_norm(
        exact[0], (width,), exact[1], 1e-5)
    wanted = torch.autograd.grad(want, [*exact, *([shift] if centred else [])], grad.double())
    near(out.rows, want.detach(), atol=1e-4)
    near(back.rows, wanted[0] + residual, atol=1e-3)
    assert torch.equal(unpaired(back.paired), back.rows)
    near(partial.sum(0)[0], wanted[1], atol=1e-2)
    if centred:
        near(partial.sum(0)[1], wanted[2], atol=1e-2)


def test_gates_and_their_way_back(ops, fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    rows, width = sizes(generator, 130, 96)
    both, grad = random_bf16(generator, rows, 2 * width), random_bf16(generator, rows, width)
    out, back, chain = layouts(rows, width), layouts(rows, 2 * width), Chain(ops, rows)
    chain.gate(both, KINDS["silu"], out)
    chain.gate(both, KINDS["silu"], back, grad)
    chain.run()
    exact = both.double().requires_grad_()
    gate, up = exact.chunk(2, dim=1)
    want = F.silu(gate) * up
    near(out.rows, want.detach(), atol=1e-3)
    near(back.rows, torch.autograd.grad(want, exact, grad.double())[0], atol=2e-3)


def test_rotation_is_that_of_lesson_04_and_is_undone(ops, fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    batch, length, heads, turned = 3, 14, HeadSizes(4, 2, 64, 1.0), 32
    qkv = random_bf16(generator, batch * length, 8 * 64)
    angles = rope.rope_angles(torch.arange(length), turned)
    got, chain = qkv.clone(), Chain(ops, len(qkv))
    chain.turn(got, angles.cos(), angles.sin(), heads)
    chain.run()
    want = qkv.double().view(batch, length, 8, 64).transpose(1, 2).clone()
    want[:, :6, :, :turned] = rope.apply_rope(want[:, :6, :, :turned], angles.double())
    near(got, want.transpose(1, 2).reshape(got.shape), atol=2e-2)  # sums of two rounded products, which may cancel
    chain = Chain(ops, len(qkv))
    chain.turn(got, angles.cos(), angles.sin(), heads, back=True)
    chain.run()
    near(got, qkv, atol=5e-2)


@pytest.mark.parametrize(("n_heads", "n_kv_heads", "head_dim"), [(2, 2, 32), (4, 2, 32), (3, 1, 64)])
def test_attention_and_its_way_back(ops, fresh_seed, n_heads, n_kv_heads, head_dim):
    generator = torch.Generator().manual_seed(fresh_seed)
    batch, length = 2, 2 * int(torch.randint(6, 45, (), generator=generator))
    heads = HeadSizes(n_heads, n_kv_heads, head_dim, head_dim**-0.5)
    qkv = random_bf16(generator, batch * length, (n_heads + 2 * n_kv_heads) * head_dim)
    grad = random_bf16(generator, batch * length, n_heads * head_dim)
    seen, peaks = ops.attend(qkv, length, heads)
    back = ops.attend_back(qkv, length, heads, seen.rows, peaks, grad)
    exact = qkv.double().requires_grad_()
    q, k, v = (part.view(batch, length, -1, head_dim).transpose(1, 2) for part in exact.split(
        [n * head_dim for n in (n_heads, n_kv_heads, n_kv_heads)], dim=1))
    k, v = (part.repeat_interleave(n_heads // n_kv_heads, dim=1) for part in (k, v))
    want = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(grad.shape)
    (wanted,) = torch.autograd.grad(want, exact, grad.double())
    for got, right in ((seen.rows, want.detach()), (back.rows, wanted)):
        assert relative(got, right) < 0.02
    assert torch.equal(unpaired(seen.paired), seen.rows) and torch.equal(unpaired(back.paired), back.rows)


def relative(got, want):
    r"""The length of the error as a share of that of the whole."""
    return float((got.double() - want).norm() / want.norm())


def test_what_comes_later_is_not_seen(ops, fresh_seed):
    generator = torch.Generator().manual_seed(fresh_seed)
    heads, length, place = HeadSizes(1, 1, 32, 0.2), 40, int(torch.randint(1, 40, (), generator=generator))
    qkv = random_bf16(generator, length, 96)
    changed = qkv.clone()
    changed[place:] = random_bf16(generator, length - place, 96) * 5
    before, after = (ops.attend(x, length, heads)[0].rows[:place] for x in (qkv, changed))
    assert torch.equal(before, after)
