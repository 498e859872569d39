r"""After a few rounds a step works in the memory of the one before."""

import subprocess
import sys

import pytest

ROUNDS = """
import resource, torch
from minillm.training.freed_memory import keep_freed_memory
kept, faults = keep_freed_memory(), []
for _ in range(12):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(2**22) for _ in range(3)]  # 16 MiB each, 4096 pages
    del blocks
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
assert not kept or min(faults[6:]) < 1000, faults
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc is told; False elsewhere")
def test_freed_memory_is_used_again():
    subprocess.run([sys.executable, "-c", ROUNDS], check=True)  # not here: it is for the whole program


AT_ONCE = """
import ctypes, torch
from minillm.training.freed_memory import keep_freed_memory
heap_end = ctypes.CDLL(None).sbrk
heap_end.restype, ends, kept = ctypes.c_void_p, [], keep_freed_memory()
for _ in range(6):
    blocks = [torch.empty(900 * 2**20, dtype=torch.uint8) for _ in range(3)]  # addresses alone, no pages
    ends.append(heap_end(0))
    del blocks
    ends.append(heap_end(0))
assert not kept or ends == sorted(ends), ends
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc is told; False elsewhere")
def test_more_than_two_gigabytes_freed_at_once_stay_too():
    subprocess.run([sys.executable, "-c", AT_ONCE], check=True)
