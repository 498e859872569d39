r"""The kernel's library: from a source that one can read, or a clear reason; how it is built is tested in native."""

import pytest

from minillm.inference.fast import build
from minillm.native.build import KernelUnavailable
from tests.inference.fast.kernel_models import skip_without_kernel


def test_the_kernel_is_a_file_that_one_can_read():
    lines = build.SOURCE.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200 and max(map(len, lines)) <= 120


def test_a_machine_without_kernel_says_so_everywhere(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "SOURCE", tmp_path / "nowhere.cpp")
    assert "nowhere.cpp" in build.kernel_failure()
    for function in (build.load_kernel, build.kernel_paths):
        with pytest.raises(KernelUnavailable, match="nowhere.cpp"):
            function()


def test_the_portable_path_is_always_there():
    skip_without_kernel()
    assert build.kernel_paths()[0] == "portable" and set(build.kernel_paths()) <= set(build.PATHS)
    assert build.load_kernel() is build.load_kernel()
