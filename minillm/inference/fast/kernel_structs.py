r"""The structs of `kernel.cpp`, field by field, and how they are filled."""

import ctypes
import weakref
from collections.abc import Sequence

from torch import Tensor

from minillm.config import ModelConfig
from minillm.inference.fast.tiles import TILE_COLS, TILE_ROWS, TiledMatrix
from minillm.layers.cache import KVCache

POINTER, INT, FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class MatrixStruct(ctypes.Structure):
    r"""`Matrix`. Lesson: 11."""

    _fields_ = [("tiles", POINTER), ("unit", POINTER), ("low_unit", POINTER),
                ("tile_rows", INT), ("tile_cols", INT), ("bits", INT)]


class LayerStruct(ctypes.Structure):
    r"""`Layer`. Lesson: 11."""

    _fields_ = [("attn_norm", POINTER), ("ffn_norm", POINTER),
                *((name, MatrixStruct) for name in ("qkv", "out", "gate_up", "down"))]


class ModelStruct(ctypes.Structure):
    r"""`Model`. Lesson: 11."""

    _fields_ = [*((name, INT) for name in (
        "d_model", "n_heads", "n_kv_heads", "head_dim", "n_turned", "d_ff", "n_layers", "n_threads", "widest")),
        ("layers", POINTER), ("final_norm", POINTER), ("head", MatrixStruct), ("eps", FLOAT), ("score_scale", FLOAT)]


class TokenStruct(ctypes.Structure):
    r"""`Token`. Lesson: 11."""

    _fields_ = [*((name, POINTER) for name in ("x", "logits", "cosine", "sine", "keys", "values", "positions")),
                ("position", INT), ("capacity", INT)]


def model_struct(
    config: ModelConfig, matrices: Sequence[TiledMatrix], norms: Sequence[Tensor], n_threads: int
) -> ModelStruct:
    r"""A model as the kernel takes it.

    Args:
        config: of the model.
        matrices: four a block, and the head.
        norms: weights of two norms a block and of the last, float32, in memory for whole tiles.
        n_threads: that share a step.
    Returns: the struct; it keeps what it points to alive.
    Lesson: 11.
    """
    structs = [MatrixStruct(m.tiles.data_ptr(), m.unit.data_ptr(), m.low_unit.data_ptr(), *m.tiles.shape[:2], m.n_bits)
               for m in matrices]
    layers = (LayerStruct * config.n_layers)(*(
        LayerStruct(norms[2 * i].data_ptr(), norms[2 * i + 1].data_ptr(), *structs[4 * i : 4 * i + 4])
        for i in range(config.n_layers)))
    widest = max(TILE_COLS, config.head_dim, *(
        max(m.tiles.shape[0] * TILE_ROWS, m.tiles.shape[1] * TILE_COLS) for m in matrices[:-1]))
    scale = config.head_dim**-0.5 if config.attention.scale is None else config.attention.scale
    struct = ModelStruct(
        config.d_model, config.n_heads, config.n_kv_heads, config.head_dim, config.rotary_dim(), config.ffn.d_ff,
        config.n_layers, n_threads, widest, ctypes.cast(layers, POINTER), norms[-1].data_ptr(), structs[-1],
        config.norm.eps, scale)
    struct.kept = (matrices, norms, layers)
    return struct


class CachePointers:
    r"""Where the tensors of a text's cache lie: three lists, a pointer a layer.

    Asking torch for them takes as long as some of a step's products, and a cache takes its memory once: so they are
    kept from one step to the next.

    Args:
        cache: float32, one text; it is not kept alive.
    Lesson: 11.
    """

    def __init__(self, cache: Sequence[KVCache]):
        self._layers = [weakref.ref(each) for each in cache]
        self.lists = [(POINTER * len(cache))(*(tensor.data_ptr() for tensor in tensors))
                      for tensors in zip(*(each.memory() for each in cache), strict=True)]

    def are_of(self, cache: Sequence[KVCache]) -> bool:
        r"""Whether these are this cache's.

        Args:
            cache: any.
        Returns: False if another one's.
        """
        return len(cache) == len(self._layers) and all(
            layer() is each for layer, each in zip(self._layers, cache, strict=True))


def token_struct(
    x: Tensor, logits: Tensor, cosine: Tensor, sine: Tensor, pointers: CachePointers, position: int, capacity: int
) -> TokenStruct:
    r"""A step as the kernel takes it.

    Args:
        x: the token's vector, float32, in memory for whole tiles.
        logits: what is written to, likewise.
        cosine: of the angles of all positions, (positions, half), contiguous.
        sine: likewise.
        pointers: to what is read and written.
        position: of the token; so many are in the cache.
        capacity: tokens that the cache could hold.
    Returns: the struct; it keeps nothing alive.
    Lesson: 11.
    """
    angles = position * cosine.shape[1] * cosine.itemsize
    return TokenStruct(
        x.data_ptr(), logits.data_ptr(), cosine.data_ptr() + angles, sine.data_ptr() + angles,
        *map(ctypes.addressof, pointers.lists), position, capacity)
