r"""What quantized blocks mean, number by number, in plain Python: an oracle for the arrays of the gguf library.

Each function takes the bytes of one block. The layouts are those of ggml-common.h.
"""

import struct


def half(data: bytes) -> float:
    r"""A number of two bytes, IEEE binary16."""
    return struct.unpack("<e", data)[0]


def q8_0(block: bytes) -> list[float]:
    r"""32 numbers: a scale and 32 signed bytes."""
    return [half(block[:2]) * value for value in struct.unpack("<32b", block[2:])]


def q4_0(block: bytes) -> list[float]:
    r"""32 numbers: a scale and 32 nibbles around 8; the low nibbles are the first half."""
    nibbles = [byte & 15 for byte in block[2:]] + [byte >> 4 for byte in block[2:]]
    return [half(block[:2]) * (nibble - 8) for nibble in nibbles]


def q4_1(block: bytes) -> list[float]:
    r"""32 numbers: a scale, the least value, and 32 nibbles."""
    nibbles = [byte & 15 for byte in block[4:]] + [byte >> 4 for byte in block[4:]]
    return [half(block[:2]) * nibble + half(block[2:4]) for nibble in nibbles]


def q4_k(block: bytes) -> list[float]:
    r"""256 numbers in 8 groups, whose scales and least values are six bits each in 12 packed bytes."""
    scale, least, packed, quants = half(block[:2]), half(block[2:4]), block[4:16], block[16:]
    values = []
    for group in range(8):
        if group < 4:
            d, m = packed[group] & 63, packed[group + 4] & 63
        else:
            d = (packed[group + 4] & 15) | (packed[group - 4] >> 6 << 4)
            m = (packed[group + 4] >> 4) | (packed[group] >> 6 << 4)
        chosen = quants[group // 2 * 32 : group // 2 * 32 + 32]
        values += [scale * d * (byte >> 4 if group % 2 else byte & 15) - least * m for byte in chosen]
    return values


def q6_k(block: bytes) -> list[float]:
    r"""256 numbers: four low bits and two high bits apart, a signed scale for each 16, and one for all."""
    low, high, scales, scale = block[:128], block[128:192], struct.unpack("<16b", block[192:208]), half(block[208:])
    values = [0.0] * 256
    for part in range(2):
        for i in range(32):
            bits = high[part * 32 + i]
            for quarter in range(4):
                byte = low[part * 64 + i + 32 * (quarter % 2)]
                four = byte & 15 if quarter < 2 else byte >> 4
                at = part * 128 + quarter * 32 + i
                values[at] = scale * scales[at // 16] * ((four | (bits >> 2 * quarter & 3) << 4) - 32)
    return values


def plain_numbers(code: str):
    r"""The oracle of a type that is not quantized, a block being one number."""
    return lambda block: list(struct.unpack(f"<{code}", block))


def bf16(block: bytes) -> list[float]:
    r"""The upper half of a float32."""
    return list(struct.unpack("<f", b"\0\0" + block))


ORACLES = {
    "F32": plain_numbers("f"), "F16": plain_numbers("e"), "BF16": bf16, "Q8_0": q8_0, "Q4_0": q4_0, "Q4_1": q4_1,
    "Q4_K": q4_k, "Q6_K": q6_k,
}  # fmt: skip
