r"""GGUF, the file of llama.cpp: names and numbers about a model, its tokenizer, and its tensors, often quantized.

    header    "GGUF", version, number of tensors, number of entries
    entries   key, type, value: general.architecture, llama.block_count, tokenizer.ggml.tokens, ...
    infos     of each tensor: name, sizes (the fastest one first), type, where its bytes begin
    data      the tensors, each at a multiple of the alignment

A file is not to be trusted. The reader of the gguf library believes every length that it finds, so that eight wrong
bytes keep it busy for ever; here, each length is compared with what is left of the file before anything is read. Types,
block sizes and the arithmetic that makes floats of quantized blocks are the library's.
"""

import math
import os
import struct
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT, GGMLQuantizationType, GGUFValueType
from gguf.quants import dequantize
from torch import Tensor

READABLE = tuple(GGMLQuantizationType[name] for name in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K"))
VERSIONS = (2, 3)
MOST_ENTRIES, MOST_TENSORS, MOST_DIMS = 2**16, 2**16, 4
MOST_ITEMS = 2**22  # in all arrays together: room for a vocabulary of a million
MOST_BYTES = 2**24  # of one string
SCALARS = {
    GGUFValueType.UINT8: "B", GGUFValueType.INT8: "b", GGUFValueType.UINT16: "H", GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I", GGUFValueType.INT32: "i", GGUFValueType.UINT64: "Q", GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT32: "f", GGUFValueType.FLOAT64: "d", GGUFValueType.BOOL: "?",
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    r"""Where a tensor lies in the file, and as what.

    Args:
        kind: how its numbers are written.
        shape: as in torch: rows first.
        start: of its first byte, from the beginning of the file.
        n_bytes: of all its blocks.
    """

    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    start: int
    n_bytes: int


@dataclass(frozen=True)
class GGUFFile:
    r"""A GGUF file whose head has been read and checked; tensors are read one at a time.

    Args:
        path: of the file.
        metadata: its entries: strings, numbers, booleans, and lists of them.
        infos: of its tensors, by name.
    """

    path: Path
    metadata: dict[str, Any]
    infos: dict[str, TensorInfo]

    def tensor(self, name: str) -> Tensor:
        r"""Read one tensor.

        Args:
            name: of the tensor.
        Returns: float32, on the CPU, memory of its own.
        Raises:
            ValueError: if there is none of that name, or the file has become shorter.
        """
        if name not in self.infos:
            raise ValueError(f"{self.path}: no tensor {name!r} in it")
        info = self.infos[name]
        data = np.fromfile(self.path, dtype=np.uint8, count=info.n_bytes, offset=info.start)
        if data.size != info.n_bytes:
            raise ValueError(f"{self.path}: {name} ends early; the file has become shorter since it was opened")
        row_bytes = info.n_bytes // math.prod(info.shape[:-1])
        with np.errstate(all="ignore"):  # infinite scales of a damaged file
            values = dequantize(data.reshape(*info.shape[:-1], row_bytes), info.kind)
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


class _Cursor:
    r"""Reads on in a file, never beyond its end, and says what was missing."""

    def __init__(self, file: BinaryIO, path: Path):
        self.file, self.path, self.at = file, path, 0
        self.size, self.n_items = os.fstat(file.fileno()).st_size, 0

    def error(self, problem: str) -> ValueError:
        return ValueError(f"{self.path}: {problem} (byte {self.at} of {self.size}); not a GGUF file, or a damaged one")

    def take(self, n_bytes: int) -> bytes:
        if n_bytes > self.size - self.at:
            raise self.error(f"truncated: {n_bytes} bytes were to follow, {self.size - self.at} are left")
        self.at += n_bytes
        return self.file.read(n_bytes)

    def number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def count(self, most: int, what: str, code: str = "Q") -> int:
        number = self.number(code)
        if number > most:
            raise self.error(f"{number} {what}, at most {most} make sense")
        return number

    def string(self) -> str:
        data = self.take(self.count(MOST_BYTES, "bytes in a string"))
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"a string is no UTF-8: {data[:40]!r}") from error

    def strings(self, n_items: int) -> list[str]:
        r"""As `string` so many times, in one loop: a vocabulary has a hundred thousand of them."""
        read, length, found = self.file.read, struct.Struct("<Q"), []
        for _ in range(n_items):
            try:
                (n_bytes,) = length.unpack(read(8))
                if n_bytes > min(MOST_BYTES, self.size - self.at - 8):
                    raise ValueError("too long")
                found.append(read(n_bytes).decode("utf-8"))
                self.at += 8 + n_bytes
            except (ValueError, struct.error):
                self.file.seek(self.at)
                found.append(self.string())  # it says what is wrong
        return found

    def kind_of(self, kinds: type[IntEnum], what: str) -> Any:
        number = self.number("I")
        try:
            return kinds(number)
        except ValueError as error:
            raise self.error(f"type {number} of {what} is unknown") from error

    def value(self) -> Any:
        kind = self.kind_of(GGUFValueType, "an entry")
        if kind != GGUFValueType.ARRAY:
            return self.string() if kind == GGUFValueType.STRING else self.number(SCALARS[kind])
        kind = self.kind_of(GGUFValueType, "an array")
        n_items = self.count(MOST_ITEMS - self.n_items, "items in arrays")
        self.n_items += n_items
        if kind == GGUFValueType.STRING:
            return self.strings(n_items)
        if kind == GGUFValueType.ARRAY:
            raise self.error("an array of arrays, which no model needs")
        code = f"<{n_items}{SCALARS[kind]}"
        return list(struct.unpack(code, self.take(struct.calcsize(code))))


def open_gguf(path: str | Path) -> GGUFFile:
    r"""Read and check the head of a GGUF file; nothing in it is run, and no length in it is believed.

    Args:
        path: of the file.
    Returns: its metadata, and where its tensors lie.
    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: saying what is wrong and where, if it is not a whole GGUF file with tensors of types that we read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb") as file:
        cursor = _Cursor(file, path)
        if (magic := cursor.take(min(4, cursor.size))) != b"GGUF":
            raise cursor.error(f"it begins with {magic!r}, not with b'GGUF'")
        version = cursor.number("I")
        if version not in VERSIONS:
            raise cursor.error(f"version {version}: we read {' and '.join(map(str, VERSIONS))}, little-endian")
        n_tensors, n_entries = cursor.count(MOST_TENSORS, "tensors"), cursor.count(MOST_ENTRIES, "entries")
        metadata: dict[str, Any] = {}
        for _ in range(n_entries):
            key = cursor.string()
            if key in metadata:
                raise cursor.error(f"entry {key!r} twice")
            metadata[key] = cursor.value()
        infos = _read_infos(cursor, n_tensors, metadata.get("general.alignment", GGUF_DEFAULT_ALIGNMENT))
    return GGUFFile(path, metadata, infos)


def _read_infos(cursor: _Cursor, n_tensors: int, alignment: Any) -> dict[str, TensorInfo]:
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise cursor.error(f"general.alignment={alignment!r} is no power of two")
    found: list[tuple[str, GGMLQuantizationType, tuple[int, ...], int]] = []
    for _ in range(n_tensors):
        name = cursor.string()
        n_dims = cursor.count(MOST_DIMS, "dimensions", "I")
        shape = tuple(cursor.number("Q") for _ in range(n_dims))[::-1]
        kind = cursor.kind_of(GGMLQuantizationType, f"tensor {name!r}")
        if kind not in READABLE:
            raise cursor.error(f"tensor {name!r} is {kind.name}: we read {', '.join(each.name for each in READABLE)}")
        block, _ = GGML_QUANT_SIZES[kind]
        if not shape or 0 in shape or shape[-1] % block:
            raise cursor.error(f"tensor {name!r} of shape {shape}: {kind.name} has rows of a multiple of {block}")
        found.append((name, kind, shape, cursor.number("Q")))
    data_start = -(-cursor.at // alignment) * alignment
    infos: dict[str, TensorInfo] = {}
    for name, kind, shape, offset in found:
        block, block_bytes = GGML_QUANT_SIZES[kind]
        n_bytes = math.prod(shape) // block * block_bytes
        if name in infos:
            raise cursor.error(f"tensor {name!r} twice")
        if offset % alignment or data_start + offset + n_bytes > cursor.size:
            raise cursor.error(f"truncated: tensor {name!r} of shape {shape} would lie at bytes {data_start + offset} "
                               f"to {data_start + offset + n_bytes}")
        infos[name] = TensorInfo(kind, shape, data_start + offset, n_bytes)
    return infos
