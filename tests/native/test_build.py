r"""Building a library: once, from anywhere, and with a clear reason where it cannot be."""

import ctypes
import shutil

import pytest
from torch.utils import cpp_extension

from minillm.native import build

ANSWER = 'extern "C" int answer() { return 42; }\n'


@pytest.fixture
def source(tmp_path):
    r"""A small file of C++."""
    path = tmp_path / "small.cpp"
    path.write_text(ANSWER)
    return path


@pytest.fixture
def cache_of_its_own(tmp_path, monkeypatch):
    r"""Nothing is looked for, nor left, where a user's libraries lie."""
    monkeypatch.setattr(cpp_extension, "get_default_build_root", lambda: str(tmp_path / "cache"))


def skip_without_compiler() -> None:
    if (reason := build.missing_tool()) is not None:
        pytest.skip(reason)


def typed(library: ctypes.CDLL) -> ctypes.CDLL:
    library.answer.argtypes, library.answer.restype = [], ctypes.c_int
    return library


def test_it_is_built_with_a_line_of_progress_and_nothing_left_lying(source, tmp_path):
    skip_without_compiler()
    said, target = [], tmp_path / "cache" / "small_1.so"
    build.build_library(source, target, "the answer", said.append)
    assert ctypes.CDLL(str(target)).answer() == 42
    assert said == ["building the answer, once, in some 20 seconds ..."] and list(target.parent.iterdir()) == [target]


def test_it_is_built_once_and_loaded_once(source, cache_of_its_own, monkeypatch, capsys):
    skip_without_compiler()
    first = build.load_library(source, typed, "the answer")
    assert first.answer() == 42 and build.library_file(source).is_file()
    assert "building the answer, once" in capsys.readouterr().err
    monkeypatch.setattr(build, "build_library", lambda *_: pytest.fail("built twice"))
    assert build.load_library(source, typed, "the answer") is first
    assert build.library_failure(source, typed, "the answer") is None
    build._opened.cache_clear()  # as in another process, which finds the file
    assert build.load_library(source, typed, "the answer").answer() == 42 and capsys.readouterr().err == ""


def test_what_the_compiler_says_is_in_the_reason(source, tmp_path):
    skip_without_compiler()
    source.write_text("int f() { return nowhere; }\n")
    with pytest.raises(build.KernelUnavailable, match="compiler failed.*nowhere"):
        build.build_library(source, tmp_path / "small_2.so", "the answer", lambda line: None)
    assert not (tmp_path / "small_2.so").exists()


@pytest.mark.parametrize(("there", "reason"), [((), "no C[+][+] compiler"), (("c++",), "ninja is missing")])
def test_without_tools_there_is_a_reason(there, reason, source, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "_search_path", lambda: str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name, path: name if name in there else None)
    with pytest.raises(build.KernelUnavailable, match=reason):
        build.build_library(source, tmp_path / "small_3.so", "the answer")


def test_a_reason_is_found_once_and_told_to_everybody(source, cache_of_its_own, monkeypatch):
    def refuse(*_):
        asked.append(1)
        raise build.KernelUnavailable("nothing here")

    asked = []
    monkeypatch.setattr(build, "build_library", refuse)
    assert build.library_failure(source, typed, "the answer") == "nothing here"
    for _ in range(2):
        with pytest.raises(build.KernelUnavailable, match="nothing here"):
            build.load_library(source, typed, "the answer")
    assert asked == [1]


def test_a_library_without_the_functions_is_a_reason_too(source, cache_of_its_own):
    skip_without_compiler()
    source.write_text(ANSWER.replace("answer", "question"))
    assert "answer" in build.library_failure(source, typed, "the question")


def test_another_source_is_another_file(source):
    before = build.library_file(source)
    source.write_text(ANSWER + "\n")
    assert build.library_file(source) != before and build.library_file(source).parent == before.parent
    assert before.name.startswith("small_")
    before = build.library_file(source)
    (source.parent / "part.hpp").write_text("int part();\n")
    assert build.library_file(source) != before
