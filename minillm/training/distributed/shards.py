r"""A checkpoint that every process writes its part of, and that any number of processes can read.

torch.distributed.checkpoint does the work: each process writes what it has (of weights that all have, each writes
some), and when another number of processes reads, each gets the rows that it now needs. The files are safetensors, as
those of `checkpoint_files`: nothing is pickled. A checkpoint is a new folder beside the old one; `checkpoint.json`
switches from the one to the other at once, after the last process has written. Whoever is killed meanwhile leaves the
old one as it was.
"""

import hashlib
import os
import secrets
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from minillm.training import checkpoint_files as files
from minillm.training.distributed.ranks import Ranks


def write_shards(directory: Path, contents: Mapping[str, Any], tensors: Mapping[str, Tensor], ranks: Ranks) -> None:
    r"""Write a checkpoint, in place of the one that may be there; all processes together.

    Args:
        directory: on a disk that all processes share; made if it does not exist.
        contents: plain JSON data, as for `write_checkpoint`; that of the first process is written.
        tensors: by name: a DTensor, of which this process writes its piece; a tensor that all have alike, or that only
            this process has.
        ranks: the processes.
    Lesson: 08.
    """
    name = ranks.first(f"{files.SHARDS}-{secrets.token_hex(6)}")
    dcp.save(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(directory / name), save_distributed=True))
    if ranks.rank == 0:
        digest = _digest_of_folder(directory / name, lasting=True)
        files.write_index(directory, contents, {files.SHARDS: {"name": name, "sha256": digest}})
    ranks.wait()


def read_shards(directory: Path, index: Mapping[str, Any], tensors: Mapping[str, Tensor], ranks: Ranks) -> None:
    r"""Read tensors of a checkpoint, each into the one of that name; all processes together.

    Args:
        directory: of the checkpoint.
        index: from `read_index`.
        tensors: by name, plain or DTensors; changed in place. What they do not name is not read.
        ranks: the processes that read, whatever their number was when it was written.
    Raises:
        ValueError: if the files are missing or not those that were written, or hold other tensors.
    Lesson: 08.
    """
    folder = files.named_path(directory, index, files.SHARDS)
    if not folder.is_dir():
        raise ValueError(f"{folder} is missing, but {files.INDEX} names it; use another checkpoint")
    if ranks.rank == 0 and _digest_of_folder(folder) != index["files"][files.SHARDS]["sha256"]:
        raise ValueError(f"{folder} is damaged or not what was written (wrong sha256); use another checkpoint")
    reader = HuggingFaceStorageReader(str(folder))
    saved = {name: torch.empty(data.size, dtype=data.properties.dtype, device="meta")
             for name, data in reader.read_metadata().state_dict_metadata.items() if name in tensors}
    files.fit_tensors(saved, tensors, str(folder))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process reads alone: as it should be
        dcp.load(dict(tensors), storage_reader=reader, no_dist=ranks.parallel is None)


def _digest_of_folder(folder: Path, lasting: bool = False) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        with open(path, "rb") as file:
            digest.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
            if lasting:
                os.fsync(file.fileno())
    return digest.hexdigest()
