r"""Two processes train as one: the same losses, the same weights, the same end; started by torchrun, on the CPU."""

import itertools

import pytest
import torch

from minillm.training import checkpoint
from minillm.training.distributed.ranks import PARALLEL, Ranks
from tests.training.distributed.starting import torchrun
from tests.training.distributed.together import ADAPTERS, RECIPES, STEPS, half_run, other_half, whole_run


def assert_same(got, want, dtype, what):
    r"""The last steps of a run are those of another, as far as the format is exact."""
    # bf16 and fp16 round the gradient of each share: as large a difference as another order of the rows would make.
    tolerance = {"fp32": 1e-5, "bf16": 1e-2, "fp16": 2e-3}[dtype]
    for name in ("loss", "grad_norm"):
        end = want[name][-len(got[name]):]  # fmt: skip
        assert got[name] == pytest.approx(end, rel=tolerance, abs=tolerance), (what, name)
    assert len(got["loss"]) > 0 and got["tokens"] == want["tokens"], what
    if dtype == "fp32":
        torch.testing.assert_close(got["weights"], want["weights"], rtol=1e-3, atol=5e-5, msg=lambda m: f"{what}: {m}")


def test_two_processes_train_as_one(tmp_path, fresh_seed):
    half_run(tmp_path / "alone", fresh_seed, Ranks())
    run = torchrun("-m", "tests.training.distributed.together", tmp_path, fresh_seed)
    assert run.returncode == 0, run.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert first.keys() == second.keys()
    alone = {name: whole_run(fresh_seed, Ranks(), **changes) for name, changes in RECIPES.items()}
    for parallel in PARALLEL:
        for name in (name for name in RECIPES if f"{parallel} {name}" in first):
            dtype = RECIPES[name].get("dtype", "fp32")
            assert_same(first[f"{parallel} {name}"], alone[name], dtype, f"{parallel} {name}")
        assert len([name for name in RECIPES if f"{parallel} {name}" in first]) >= len(RECIPES) - (parallel == "fsdp")
        whole, resumed = (first[f"{parallel} {which} with dropout"] for which in ("whole", "resumed"))
        assert torch.equal(whole["weights"], resumed["weights"]), "resumed to the last bit, dropout included"
        assert resumed["loss"] == whole["loss"][STEPS // 2:]  # fmt: skip
        assert whole["loss"] != pytest.approx(alone["fp32"]["loss"], abs=1e-3), "there was dropout"
        for said, words in (("odd rows", "one has 3 rows, which 2 processes cannot share evenly"),
                            ("no targets", "the rows of process 1 hold no counted target")):  # fmt: skip
            assert words in first[f"{parallel} {said}"]
        assert first[f"{parallel} clock"] == 9, "the first process's clock counts"
    for name, changes in ADAPTERS.items():
        got, want = first[f"ddp {name}"], whole_run(fresh_seed, Ranks(), **changes)
        # Their gradients are small beside bf16's steps: there it is enough that both processes agree, see below.
        far = 0.2 if changes.get("dtype") == "bf16" else 1e-3
        torch.testing.assert_close(got["weights"], want["weights"], rtol=0, atol=far, msg=lambda m, name=name: name + m)
        assert len(got["loss"]) == STEPS and got["tokens"] == want["tokens"]
    assert "such as tok_emb.weight, are frozen" in first["fsdp adapters"] and "'ddp'" in first["fsdp adapters"]
    for saved, goes_on in itertools.product((*PARALLEL, "alone"), PARALLEL):
        assert_same(first[f"{saved}, then {goes_on}"], alone["fp32"], "fp32", f"{saved}, then {goes_on}")
    for name, mine in first.items():
        if isinstance(mine, dict):
            assert mine["loss"] == second[name]["loss"] and torch.equal(mine["weights"], second[name]["weights"]), name
        else:
            assert mine == second[name], name
    for parallel in PARALLEL:
        goes_on_alone(tmp_path / parallel, alone["fp32"], fresh_seed)


def goes_on_alone(folder, want, seed):
    r"""What two processes have written, one reads; and refuses it once it is damaged."""
    model, _, about = checkpoint.load(folder)
    assert about["seed"] == seed and about["run"]["step"] == STEPS // 2 and not model.training
    assert_same(other_half(folder, Ranks()), want, "fp32", f"{folder.name}, then alone")
    written = sorted(folder.glob("shards-*/*.safetensors"))
    assert len(written) == 2, "each process wrote a file"
    assert all(b"pickle" not in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    data = bytearray(written[0].read_bytes())
    data[-1] ^= 1
    written[0].write_bytes(data)
    with pytest.raises(ValueError, match="is damaged or not what was written"):
        checkpoint.load(folder)
    for path in written:
        path.unlink()
    written[0].parent.rmdir()
    with pytest.raises(ValueError, match="shards-[0-9a-f]{12} is missing, but checkpoint.json names it"):
        checkpoint.load(folder)
