r"""The peer that is quickest on a CPU: llama.cpp, through its Python bindings, where they are installed.

It reads the GGUF file as it is, and the ones that our own export makes of it: so the bench also shows that they run.
"""

import ctypes
import multiprocessing
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minillm.bench.decode.entrants import ROWS, Entrant
from minillm.pretrained.gguf_file import open_gguf
from minillm.pretrained.to_gguf import to_gguf

CACHE = 4096  # tokens of all texts
TRIES_S = 120  # seconds after which a first try counts as hung


def llama_cpp_problem() -> str | None:
    r"""Why llama.cpp cannot take part; None if it can."""
    return None if find_spec("llama_cpp") else "llama-cpp-python is not installed (python -m pip install it)"


def llama_cpp_entrants(model: Any, tokenizer: Any, path: Path, folder: Path) -> tuple[list[Entrant], list[str]]:
    r"""llama.cpp with float16, 8-bit and, where the file has them, its own weights.

    Args:
        model: ours, in float32.
        tokenizer: of the model.
        path: that it was read from.
        folder: for the files that are exported; must stay while the entrants are used.
    Returns: the entrants, and notes about what had to be switched off.
    """
    files = {kind: to_gguf(model, tokenizer, folder / kind, kind).files[0] for kind in ("f16", "q8_0")}
    if not path.is_dir():
        files["q4_1" if "Q4_1" in path.name else "as it is"] = path
    entrants, notes = [], []
    for kind, file in files.items():
        extra = _runs(file)
        if not extra:
            notes.append(f"llama.cpp {kind}: its extra buffers (repacked weights) crash here, so they are off")
        engine = _Engine(file, CACHE, extra)
        n_bytes = sum(each.n_bytes for each in open_gguf(file).infos.values())
        entrants.append(Entrant("llama.cpp", kind, "", n_bytes, engine.write, engine.logits))
    return entrants, notes


def _runs(file: Path) -> bool:
    r"""Whether llama.cpp survives its extra buffers with this file; tried in a process of its own."""
    process = multiprocessing.get_context("spawn").Process(target=_try, args=(str(file),))
    process.start()
    process.join(TRIES_S)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode == 0


def _try(file: str) -> None:
    _Engine(Path(file), 256, True).write(torch.ones(2, 16, dtype=torch.int64), 8)


class _Engine:
    r"""A model in llama.cpp, driven through the C interface: batches of several texts, the likeliest token each."""

    def __init__(self, file: Path, n_tokens: int, extra_buffers: bool):
        self.lib = llama_cpp = import_module("llama_cpp")  # by its name: it is nobody's dependency
        self.quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        of_model = llama_cpp.llama_model_default_params()
        of_model.n_gpu_layers, of_model.use_extra_bufts = 0, extra_buffers
        self.model = llama_cpp.llama_model_load_from_file(str(file).encode(), of_model)
        if not self.model:
            raise ValueError(f"{file}: llama.cpp does not read it")
        of_context = llama_cpp.llama_context_default_params()
        n_threads = torch.get_num_threads()
        settings = {"n_ctx": n_tokens, "n_seq_max": ROWS, "kv_unified": True, "n_batch": 512, "n_ubatch": 512,
                    "n_threads": n_threads, "n_threads_batch": n_threads}
        for key, value in settings.items():
            setattr(of_context, key, value)
        self.context = llama_cpp.llama_init_from_model(self.model, of_context)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(512, 0, 1)

    def write(self, prompts: Tensor, n_new: int) -> Tensor:
        self._forget()
        rows = self._step(prompts.tolist(), 0)
        written = [[int(row.argmax()) for row in rows]]
        for i in range(n_new - 1):
            rows = self._step([[token_id] for token_id in written[-1]], prompts.shape[1] + i)
            written.append([int(row.argmax()) for row in rows])
        return torch.tensor(written).T

    def logits(self, token_ids: Tensor) -> Tensor:
        self._forget()
        rows = [self._step([[token_id]], i)[0].copy() for i, token_id in enumerate(token_ids.tolist())]
        return torch.from_numpy(np.stack(rows))

    def _forget(self) -> None:
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)

    def _step(self, texts: Sequence[Sequence[int]], position: int) -> list[np.ndarray]:
        r"""Read the next tokens of each text and give the logits after its last: views, good until the next step."""
        batch, last = self.batch, []
        batch.n_tokens = 0
        for row, text in enumerate(texts):
            for offset, token_id in enumerate(text):
                i = batch.n_tokens
                batch.token[i], batch.pos[i], batch.n_seq_id[i] = token_id, position + offset, 1
                batch.seq_id[i][0], batch.logits[i] = row, offset == len(text) - 1
                batch.n_tokens += 1
            last.append(batch.n_tokens - 1)
        if code := self.lib.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode returned {code}")
        return [np.ctypeslib.as_array(self.lib.llama_get_logits_ith(self.context, i), (self.vocab_size,)) for i in last]
