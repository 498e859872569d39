r"""What the processes of test_processes.py run; here, because they import it by its name."""

import os
import sys
import time

import torch
import torch.distributed as dist


def add_up(rank, n_processes, x):
    total = x * (rank + 1)
    dist.all_reduce(total)
    return rank, n_processes, total, torch.get_num_threads()


def fail_in_the_second(rank, n_processes, how):
    if rank == 1:
        print("the second says goodbye", flush=True)
        if how == "raise":
            raise KeyError("no such thing")
        if how == "die":
            os._exit(7)
        sys.exit(3)
    dist.recv(torch.zeros(3), 1)  # waits for a message that never comes


def sleep_for_ever(rank, n_processes, folder):
    with open(f"{folder}/pid{rank}", "w") as file:
        file.write(str(os.getpid()))
    time.sleep(600)


def unsendable(rank, n_processes):
    return lambda: rank
