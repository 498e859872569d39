r"""Steps of one token by `kernel.cpp`, for models whose weights lie in 8 or 4 bits."""

import ctypes
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minillm.inference.fast import build
from minillm.inference.fast.decoder import FastDecoder, is_plain_step
from minillm.inference.fast.kernel_structs import CachePointers, model_struct, token_struct
from minillm.inference.fast.large_pages import into_large_pages
from minillm.inference.fast.shape import slow_part
from minillm.inference.fast.tiles import TILE_COLS, TiledMatrix, tile_int4, tile_int8
from minillm.inference.quantization.int4 import unpack_nibbles
from minillm.inference.quantization.linears import Int4Linear, Int8Linear
from minillm.layers.cache import KVCache
from minillm.model.gpt import GPT
from minillm.model.rotation import model_angles, rope_amplitude

LINEARS = ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.o_proj", "ffn.gate_proj", "ffn.up_proj", "ffn.down_proj")


class KernelDecoder:
    r"""A quantized model that decodes at nearly the speed of reading its weights; called and cached like a GPT.

    Activations are rounded to int8 in groups of 32 before each product, so that the logits differ a little from the
    model's own. Prompts and whatever else is not a step of one token for one text go through the model itself, or, for
    several texts at once, through a `FastDecoder`. It holds its own copy of the weights, as they were when it was made.

    Its threads sleep between tokens; a text goes on whether they come or not. Calls from several threads wait for each
    other, and in a forked process it starts its threads anew.

    Args:
        model: of LLaMA's shape, on the CPU, from `quantize_model`.
        n_threads: that share a step; None = as many as torch uses.
        path: one of `build.kernel_paths()`; None = the fastest.
    Raises:
        ValueError: if the model has a part that the kernel does not know (see `kernel_refusal`), or an argument is out
            of range.
        KernelUnavailable: if the kernel cannot be built on this machine.
    Source: Pope et al. 2022, Efficiently Scaling Transformer Inference, for what bounds a step.
    Lesson: 11.
    """

    def __init__(self, model: GPT, n_threads: int | None = None, path: str | None = None):
        reason = kernel_refusal(model)
        if reason is not None:
            raise ValueError(f"model: {reason}; use FastDecoder(model), or the model itself")
        n_threads = torch.get_num_threads() if n_threads is None else n_threads
        if n_threads < 1:
            raise ValueError(f"n_threads={n_threads}: use at least 1, or None for as many as torch uses")
        known = build.kernel_paths()
        path = known[-1] if path is None else path
        if path not in known:
            raise ValueError(f"path={path!r}: this processor takes {', '.join(known)}")
        self.model, self.config, self.n_threads, self.path = model, model.config, n_threads, path
        self._count = torch.arange(model.config.max_seq_len)
        with torch.no_grad():
            amplitude = rope_amplitude(model.config)
            angles = model_angles(model.config, self._count)
            self._cosine, self._sine = (f(angles).mul_(amplitude).contiguous() for f in (torch.cos, torch.sin))
            self._matrices = kernel_matrices(model)
            into_large_pages(self._matrices)
            self._x = F.pad(torch.zeros(model.config.d_model), (0, -model.config.d_model % TILE_COLS))
            norms = [F.pad(norm.weight.detach().float(), (0, len(self._x) - model.config.d_model)) for norm in (
                *(part for block in model.blocks for part in (block.attn_norm, block.ffn_norm)), model.final_norm)]
        self._struct = model_struct(model.config, self._matrices, norms, n_threads)
        self._for_rows: FastDecoder | None = None
        self._pointers = CachePointers([])
        self._open()

    def parameters(self) -> Iterator[nn.Parameter]:
        r"""The model's own."""
        return self.model.parameters()

    def n_bytes(self) -> int:
        r"""What a step reads of weights, in bytes; the cache comes on top. Lesson: 11."""
        return sum(m.tiles.nbytes + m.unit.nbytes + (m.low_unit.nbytes if m.n_bits == 4 else 0) for m in self._matrices)

    def new_cache(self, batch_size: int, capacity: int, dtype: torch.dtype | None = None) -> list[KVCache]:
        r"""One empty contiguous cache a block.

        Args:
            batch_size: B.
            capacity: tokens a sequence.
            dtype: of the stored keys and values; None = float32, which the kernel wants.
        Returns: a list of layer caches, which the model itself takes as well.
        """
        return self.model.new_cache(batch_size, capacity, dtype or torch.float32)

    def __call__(
        self,
        token_ids: Int[Tensor, "B T"],
        padding_mask: Bool[Tensor, "B Tk"] | None = None,
        positions: Int[Tensor, "*b T"] | None = None,
        cache: Sequence[Any] | None = None,
    ) -> Float[Tensor, "B T V"]:
        r"""Logits for the next token at every position.

        Args:
            token_ids: (B, T), int64; B = T = 1 is what the kernel does.
            padding_mask: as a GPT's.
            positions: as a GPT's.
            cache: from `new_cache`, the model's or this one's; the new tokens are appended.
        Returns: (B, T, V), float32.
        Raises:
            ValueError: as the model itself.
        """
        usual = padding_mask is None and positions is None and cache is not None
        if usual and self._fits(token_ids, cache):
            return self._step(token_ids, cache)
        if usual and token_ids.shape[1] == 1 and len(token_ids) > 1:
            if self._for_rows is None:
                self._for_rows = FastDecoder(self.model)
            return self._for_rows(token_ids, cache=cache)
        return self.model(token_ids, padding_mask, positions, cache).float()

    def last_logits(
        self,
        token_ids: Int[Tensor, "B T"],
        padding_mask: Bool[Tensor, "B Tk"] | None = None,
        positions: Int[Tensor, "*b T"] | None = None,
        cache: Sequence[Any] | None = None,
    ) -> Float[Tensor, "B V"]:
        r"""Logits after the last token alone, by the model itself: for prompts.

        Args:
            token_ids: (B, T), int64.
            padding_mask: as a GPT's.
            positions: as a GPT's.
            cache: as a GPT's.
        Returns: (B, V), float32.
        """
        return self.model.last_logits(token_ids, padding_mask, positions, cache).float()

    def _fits(self, token_ids: Tensor, cache: Sequence[Any]) -> bool:
        r"""Whether this is a plain step of one text, with a cache that the kernel can write into."""
        if len(token_ids) != 1 or not is_plain_step(self.model, token_ids, cache, self._count):
            return False
        alike = {(each.length, each.capacity) for each in cache}
        return len(alike) == 1 and cache[0].memory()[0].dtype == torch.float32

    def _step(self, token_ids: Int[Tensor, "1 1"], cache: Sequence[KVCache]) -> Float[Tensor, "1 1 V"]:
        c, n_past = self.config, cache[0].length
        if self._pid != os.getpid():  # forked: threads did not come along, and somebody may have held the lock
            self._open()
        logits = torch.empty(len(self._matrices[-1].unit))
        with self._lock:
            self._x[: c.d_model].copy_(self.model.tok_emb(token_ids)[0, 0]).mul_(c.ends.embedding_scale)
            if not self._pointers.are_of(cache):
                self._pointers = CachePointers(cache)
            token = token_struct(
                self._x, logits, self._cosine, self._sine, self._pointers, n_past, cache[0].capacity)
            self._library.kernel_step(self._handle, ctypes.byref(token))
        for layer_cache in cache:
            layer_cache.length = n_past + 1
        logits = logits[: c.vocab_size]
        return (logits if c.ends.logit_scale == 1.0 else logits * c.ends.logit_scale)[None, None]

    def _open(self) -> None:
        r"""Start the kernel's threads, in this process."""
        self._pid, self._lock, self._library = os.getpid(), threading.Lock(), build.load_kernel()
        self._handle = self._library.kernel_open(ctypes.byref(self._struct), build.PATHS.index(self.path))
        weakref.finalize(self, _close, self._library, self._handle, self._pid, self._struct).atexit = False


def _close(library: ctypes.CDLL, handle: int, pid: int, struct: Any) -> None:
    r"""End the kernel's threads, in the process that they live in; until then `struct` keeps the weights alive."""
    if os.getpid() == pid:
        library.kernel_close(handle)


def kernel_refusal(model: Any) -> str | None:
    r"""Why the kernel cannot run a model.

    Args:
        model: any.
    Returns: what is another than the kernel knows, in words; None = it can (if it can be built).
    Lesson: 11.
    """
    if (reason := slow_part(model)) is not None:
        return reason
    layers = {"lm_head": model.lm_head} | {
        f"blocks.{i}.{name}": block.get_submodule(name) for i, block in enumerate(model.blocks) for name in LINEARS}
    for name, layer in layers.items():
        if type(layer) not in (Int8Linear, Int4Linear):
            return f"{name} is a {type(layer).__name__}, and the kernel knows weights in 8 or 4 bits alone"
        if layer.bias is not None:
            return f"{name} has a bias, which the kernel leaves out"
        if type(layer) is Int4Linear and layer.scales.shape[1] > 1 and layer.group_size % TILE_COLS:
            return f"{name} has groups of {layer.group_size}, and the kernel knows multiples of {TILE_COLS} alone"
    activations = {block.ffn.activation for block in model.blocks}
    return None if activations == {"silu"} else f"its activations are {sorted(activations)}, and the kernel's is silu"


def kernel_matrices(model: GPT) -> list[TiledMatrix]:
    r"""A model's matrices in the order in which a step reads them: four a block, and the head.

    Args:
        model: that `kernel_refusal` has nothing against.
    Returns: queries, keys and values as one matrix, output, gate and up as one, down; and so on; then the head.
    Lesson: 11.
    """
    joined = [group for block in model.blocks for group in (
        (block.attn.q_proj, block.attn.k_proj, block.attn.v_proj), (block.attn.o_proj,),
        (block.ffn.gate_proj, block.ffn.up_proj), (block.ffn.down_proj,))]
    return [_tiled(layers) for layers in [*joined, (model.lm_head,)]]


def _tiled(layers: Sequence[Int8Linear | Int4Linear]) -> TiledMatrix:
    r"""Layers one below the other as one matrix in tiles."""
    if type(layers[0]) is Int8Linear:
        return tile_int8(torch.cat([each.q_weight for each in layers]), torch.cat([each.scales for each in layers]))
    codes = torch.cat([unpack_nibbles(each.packed) for each in layers])
    scales, lows = (torch.cat([getattr(each, name).float() for each in layers]) for name in ("scales", "lows"))
    return tile_int4(codes, scales, lows)
