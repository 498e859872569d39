r"""Building the kernel: once, from anywhere, and with a clear reason where it cannot be."""

import ctypes
import shutil

import pytest

from minillm.inference.fast import build
from tests.inference.fast.kernel_models import skip_without_kernel

OTHER_SOURCE = 'extern "C" int answer() { return 42; }\n'


@pytest.fixture
def other_source(tmp_path, monkeypatch):
    r"""A small source in place of the kernel's, and a cache of its own."""
    build.kernel_failure()  # remembered from before
    source = tmp_path / "kernel.cpp"
    source.write_text(OTHER_SOURCE)
    monkeypatch.setattr(build, "SOURCE", source)
    return source


def test_the_kernel_is_a_file_that_one_can_read():
    lines = build.SOURCE.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200 and max(map(len, lines)) <= 120


def test_it_is_built_with_a_line_of_progress_and_nothing_left_lying(other_source, tmp_path):
    skip_without_kernel()  # and with it without a compiler
    said, target = [], tmp_path / "cache" / "kernel_1.so"
    build.build_library(target, said.append)
    assert ctypes.CDLL(str(target)).answer() == 42
    assert len(said) == 1 and list(target.parent.iterdir()) == [target]


def test_what_the_compiler_says_is_in_the_reason(other_source, tmp_path):
    skip_without_kernel()
    other_source.write_text("int f() { return nowhere; }\n")
    with pytest.raises(build.KernelUnavailable, match="compiler failed.*nowhere"):
        build.build_library(tmp_path / "kernel_2.so", lambda line: None)
    assert not (tmp_path / "kernel_2.so").exists()


@pytest.mark.parametrize(("there", "reason"), [((), "no C[+][+] compiler"), (("c++",), "ninja is missing")])
def test_without_tools_there_is_a_reason(there, reason, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "_search_path", lambda: str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name, path: name if name in there else None)
    with pytest.raises(build.KernelUnavailable, match=reason):
        build.build_library(tmp_path / "kernel_3.so")


def test_a_machine_without_kernel_says_so_everywhere(tmp_path, monkeypatch):
    def refuse(path):
        raise build.KernelUnavailable("nothing here")

    monkeypatch.setattr(build, "build_library", refuse)
    monkeypatch.setattr(build, "library_file", lambda: tmp_path / "none.so")
    for function in (build._failure, build.load_kernel):
        function.cache_clear()
    try:
        assert build.kernel_failure() == "nothing here"
        for function in (build.load_kernel, build.kernel_paths):
            with pytest.raises(build.KernelUnavailable, match="nothing here"):
                function()
    finally:
        for function in (build._failure, build.load_kernel):
            function.cache_clear()


def test_another_source_is_another_file(other_source):
    before = build.library_file()
    other_source.write_text(OTHER_SOURCE + "\n")
    assert build.library_file() != before and build.library_file().parent == before.parent


def test_the_portable_path_is_always_there():
    skip_without_kernel()
    assert build.kernel_paths()[0] == "portable" and set(build.kernel_paths()) <= set(build.PATHS)
