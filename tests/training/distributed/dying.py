r"""The command line, in which the second of two processes is killed while it writes the third checkpoint."""

import os
import signal
from itertools import count

import torch.distributed as dist
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

from minillm.__main__ import main

calls, honest = count(1), HuggingFaceStorageWriter.write_data


def write_and_die(self, plan, planner):
    r"""Write a file; the third time, do not live to tell the others."""
    written = honest(self, plan, planner)
    if next(calls) == 3 and dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return written


if __name__ == "__main__":
    HuggingFaceStorageWriter.write_data = write_and_die
    main()
