r"""GGUF files: read exactly where they are whole, refused in bounded time and memory where they are not."""

import math
import random
import resource
import struct
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.pretrained import gguf_file
from minillm.pretrained.gguf_file import open_gguf
from minillm.pretrained.loading import load_model
from tests.pretrained.ggml_blocks import ORACLES

SIZES = dict(block_count=2, embedding_length=32, feed_forward_length=64, context_length=48, vocab_size=40)
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 8


def write_llama(path, seed: int = 0, kind: str = "Q8_0", layers: int = 2, **changes) -> Path:
    r"""A small LLaMA-shaped file with random weights, by the gguf library's writer; `changes` are further entries."""
    draw = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in SIZES.items():
        writer.add_uint32(f"llama.{name}", value)
    writer.add_uint32("llama.attention.head_count", HEADS)
    writer.add_uint32("llama.attention.head_count_kv", KV_HEADS)
    writer.add_float32("llama.rope.freq_base", 1000.0)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    for name, value in changes.items():
        if name == "general__alignment":
            writer.add_custom_alignment(value)
            continue
        writer.add_key_value(name.replace("__", "."), value, gguf.GGUFValueType.get_type(value))
    writer.add_array("tokenizer.ggml.tokens", [f"token {i} é" for i in range(40)])
    writer.add_array("tokenizer.ggml.token_type", [1] * 40)
    shapes = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32), "ffn_gate": (64, 32),
              "ffn_up": (64, 32), "ffn_down": (32, 64)}
    tensors = {"token_embd": (40, 32), "output_norm": (32,)}
    for layer in range(layers):
        tensors |= {f"blk.{layer}.{name}": shape for name, shape in shapes.items()}
        tensors |= {f"blk.{layer}.{name}": (32,) for name in ("attn_norm", "ffn_norm")}
    quantized = gguf.GGMLQuantizationType[kind]
    for name, shape in tensors.items():
        values = draw.normal(size=shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", values)
        else:
            writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, quantized), raw_dtype=quantized)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Path(path)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> bytes:
    r"""The bytes of a whole small file."""
    return write_llama(tmp_path_factory.mktemp("gguf") / "small.gguf").read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    r"""A path to write damaged files to."""
    return tmp_path_factory.mktemp("damaged") / "damaged.gguf"


def finite_blocks(kind: str, n_blocks: int, draw: random.Random) -> bytes:
    r"""Random bytes for blocks of a type, whose scales are no infinities."""
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1]
    at = {"Q4_1": (0, 2), "Q4_K": (0, 2), "Q6_K": (208,)}
    blocks = b""
    for _ in range(n_blocks):
        if kind in ("F32", "F16", "BF16"):
            number = struct.pack({"F16": "<e"}.get(kind, "<f"), draw.gauss(0, 2))
            blocks += number[2:] if kind == "BF16" else number
            continue
        block = bytearray(draw.randbytes(size))
        for place in at.get(kind, (0,)):
            block[place : place + 2] = struct.pack("<e", draw.gauss(0, 1))
        blocks += bytes(block)
    return blocks


@pytest.mark.parametrize("kind", ORACLES)
def test_every_type_is_read_to_the_number(kind, tmp_path, fresh_seed):
    draw, quantized = random.Random(fresh_seed), gguf.GGMLQuantizationType[kind]
    block, block_bytes = gguf.GGML_QUANT_SIZES[quantized]
    rows, columns = draw.randint(1, 40), block * draw.randint(1, 3)
    data = finite_blocks(kind, rows * columns // block, draw)
    writer = gguf.GGUFWriter(tmp_path / "one.gguf", "llama")
    raw = np.frombuffer(data, np.uint8).reshape(rows, -1)
    plain = {"F32": np.float32, "F16": np.float16}.get(kind)
    writer.add_tensor("other", np.ones(3, np.float32))
    writer.add_tensor("it", raw.view(plain) if plain else raw, raw_dtype=None if plain else quantized)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    want = [value for at in range(0, len(data), block_bytes) for value in ORACLES[kind](data[at : at + block_bytes])]
    got = open_gguf(tmp_path / "one.gguf").tensor("it")
    assert got.dtype == torch.float32 and got.shape == (rows, columns)
    torch.testing.assert_close(got.flatten().double(), torch.tensor(want, dtype=torch.float64), rtol=1e-5, atol=1e-5)


def test_what_is_offered_is_what_is_tested():
    assert {kind.name for kind in gguf_file.READABLE} == set(ORACLES)


def test_the_head_is_what_the_library_reads(tmp_path):
    path = write_llama(tmp_path / "a.gguf", general__alignment=64, odd__list=[1, -2], odd__flag=True)
    file, reader = open_gguf(path), gguf.GGUFReader(path)
    assert file.metadata == {name: field.contents() for name, field in reader.fields.items() if name[:4] != "GGUF"}
    for tensor in reader.tensors:
        info = file.infos[tensor.name]
        assert (info.start, info.n_bytes, info.kind) == (tensor.data_offset, tensor.n_bytes, tensor.tensor_type)
        assert list(info.shape) == tensor.shape.tolist()[::-1]
        want = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(info.shape)
        assert torch.equal(file.tensor(tensor.name), torch.from_numpy(want.copy()))
    with pytest.raises(ValueError, match="no tensor 'blk.9'"):
        file.tensor("blk.9")


def test_every_truncation_of_the_head_and_some_of_the_data_are_refused(small, scratch, fresh_seed):
    scratch.write_bytes(small)
    head = min(info.start for info in open_gguf(scratch).infos.values())
    draw = random.Random(fresh_seed)
    for length in [*range(0, head, 7), *(draw.randrange(head, len(small) - 31) for _ in range(40))]:
        scratch.write_bytes(small[:length])
        with pytest.raises(ValueError, match="truncated|begins with"):
            open_gguf(scratch)


def huge_numbers(small: bytes) -> dict[str, tuple[int, bytes]]:
    r"""Places in the small file where a length stands, and what to write there."""
    key = small.index(b"tokenizer.ggml.tokens") + len("tokenizer.ggml.tokens")
    name = small.index(b"token_embd.weight") + len("token_embd.weight")
    width, huge = 8, struct.pack("<Q", 2**62)
    return {
        "tensors": (8, huge), "entries": (16, huge), "a key": (24, huge), "an array": (key + 8, huge),
        "a string in it": (key + 16, huge), "dimensions": (name, struct.pack("<I", 2**31)), "a row": (name + 4, huge),
        "rows": (name + 4 + width, huge), "an offset": (name + 24, struct.pack("<Q", 2**63 + 32)),
        "few tensors too many": (8, struct.pack("<Q", 60000)), "a long row": (name + 4, struct.pack("<Q", 2**40)),
    }  # fmt: skip


def test_huge_sizes_are_refused_in_little_memory(small, scratch):
    for what, (at, wrong) in huge_numbers(small).items():
        scratch.write_bytes(small[:at] + wrong + small[at + len(wrong) :])
        with pytest.raises(ValueError, match="at most|truncated|unknown|UTF-8|multiple|twice"):
            pytest.fail(f"{what}: {open_gguf(scratch)}")
        # in a process that may take 128 MB more than its libraries did
        probe = ("import resource, sys; import torch, gguf; from minillm.pretrained.loading import load_model\n"
                 "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
                 "resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, used + 2**27))\n"
                 "try: load_model(sys.argv[1], device='cpu')\nexcept ValueError: sys.exit(7)\n")
        if what in ("an array", "a row") and Path("/proc/self/statm").exists():
            command = [sys.executable, "-c", probe, str(scratch)]
            run = subprocess.run(command, timeout=120, capture_output=True, text=True)
            assert run.returncode == 7, run.stderr


@pytest.mark.parametrize("content", [b"", b"GG", b"GGUF", b"PK\x03\x04" + b"\0" * 99, b"FUGG" + b"\0" * 99, b"\0" * 64])
def test_another_file_is_refused(content, scratch):
    scratch.write_bytes(content)
    with pytest.raises(ValueError, match="not a GGUF file"):
        open_gguf(scratch)


@pytest.mark.parametrize("version", [0, 1, 4, 2**32 - 1, 3 << 24])
def test_another_version_is_refused(version, small, scratch):
    scratch.write_bytes(small[:4] + struct.pack("<I", version) + small[8:])
    with pytest.raises(ValueError, match=f"version {version}"):
        open_gguf(scratch)


@pytest.mark.parametrize("number, message", [
    (5, "type 5"), (999, "type 999"), (13, "is Q5_K: we read F32"), (28, "F64")])
def test_a_type_that_we_do_not_read_is_named(number, message, small, scratch):
    name = small.index(b"token_embd.weight") + len("token_embd.weight")
    scratch.write_bytes(small[: name + 20] + struct.pack("<I", number) + small[name + 24 :])
    with pytest.raises(ValueError, match=message):
        open_gguf(scratch)


def test_no_such_file():
    with pytest.raises(FileNotFoundError, match="absent.gguf"):
        open_gguf("absent.gguf")


@pytest.mark.parametrize("changes, message", [
    (dict(llama__block_count=2**32 - 1), "num_hidden_layers=4294967295"), (dict(llama__block_count=1), "left over"),
    (dict(llama__block_count=3), "missing"), (dict(llama__embedding_length=2**31), "hidden_size=2147483648"),
    (dict(llama__embedding_length=33), "small.gguf"), (dict(llama__attention__head_count=0), "head_count=0"),
    (dict(llama__attention__head_count=3), "small.gguf"), (dict(llama__attention__head_count="4"), "head_count='4'"),
    (dict(llama__feed_forward_length=63), "shape"), (dict(llama__rope__freq_base=-1.0), "freq_base=-1.0"),
    (dict(llama__rope__freq_base=math.nan), "freq_base=nan"), (dict(llama__expert_count=4), "expert_count=4"),
    (dict(llama__attention__layer_norm_rms_epsilon=0.0), "epsilon=0.0"), (dict(llama__unheard_of=1), "unheard_of=1"),
    (dict(llama__rope__scaling__type="linear"), "rope.scaling.type='linear'"),
    (dict(llama__rope__dimension_count=4), "dimension_count=4"), (dict(general__architecture="gpt2"), "'gpt2'"),
])  # fmt: skip
def test_numbers_that_do_not_fit_are_refused(changes, message, small, scratch, monkeypatch):
    scratch = scratch.with_name("small.gguf")
    scratch.write_bytes(small)
    whole = open_gguf(scratch)
    metadata = whole.metadata | {name.replace("__", "."): value for name, value in changes.items()}
    monkeypatch.setattr("minillm.pretrained.loading.open_gguf", lambda path: gguf_file.GGUFFile(
        whole.path, metadata, whole.infos))
    with pytest.raises(ValueError, match=message):
        load_model(scratch, device="cpu")


@given(st.data())
def test_no_damage_does_more_than_raise(small, scratch, data):
    damaged = bytearray(small)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(small) - 1) | st.integers(0, 3000))
        damaged[at] = data.draw(st.integers(0, 255))
    end = data.draw(st.just(len(small)) | st.integers(0, len(small)))
    scratch.write_bytes(bytes(damaged[:end]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        model = load_model(scratch, device="cpu")
        assert sum(parameter.numel() for parameter in model.parameters()) < len(small)
    except ValueError as error:
        assert "damaged.gguf" in str(error)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200_000 * (1000 if sys.platform == "darwin" else 1), f"{grown} more at the peak"
