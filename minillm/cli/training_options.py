r"""What `train` can be told."""

from pathlib import Path
from typing import Annotated

import typer

OfText = "For a text: "
OfLora = "With --lora: "

Corpus = Annotated[
    str | None, typer.Option(help="stories, python-docs, or a file or folder; with --lora also a .jsonl. [stories]")]
Seconds = Annotated[float | None, typer.Option(help="Stop after so many seconds. [60, if no --steps]")]
Steps = Annotated[int | None, typer.Option(help="Stop after so many steps.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Of the CPU. [all or one: a short trial decides]")]
Dtype = Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16: what to compute in. [auto]")]
Compile = Annotated[bool | None, typer.Option("--compile/--no-compile", help="Use torch.compile. [no]")]
Recompute = Annotated[
    bool | None, typer.Option("--recompute/--keep", help="Compute activations twice, to keep fewer. [keep]")]
Kernel = Annotated[
    bool | None, typer.Option("--kernel/--no-kernel", help="Use our own kernel, in bf16. [where it can be used]")]
Out = Annotated[Path | None, typer.Option(help="Folder for the checkpoint; with --lora the file. [a new one in runs/]")]
Resume = Annotated[Path | None, typer.Option(help="Go on with this run; --seconds and --steps are totals.")]
Preset = Annotated[str | None, typer.Option(help="Shape of the model, see minillm.config. [tiny]")]
TokenizerName = Annotated[str | None, typer.Option(help=OfText + "bpe, bytes or characters. [bpe]")]
VocabSize = Annotated[int | None, typer.Option(min=256, help=OfText + "tokens of bpe. [1024]")]
SeqLen = Annotated[
    int | None, typer.Option(min=2, help=OfText + "tokens in a window. [128; with --lora 256, and of a talk at most]")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Texts in a batch. [32; with --lora 4]")]
LearningRate = Annotated[float | None, typer.Option(help="The largest learning rate. [0.003; with --lora 0.002]")]
WarmupSteps = Annotated[int | None, typer.Option(help="Steps until it is reached. [50; with --lora 5]")]
Schedule = Annotated[str | None, typer.Option(help="How it comes down: linear or cosine. [linear]")]
Accumulation = Annotated[int | None, typer.Option(min=1, help="Batches that make one step. [1]")]
Parallel = Annotated[str | None, typer.Option(help="ddp or fsdp: in all processes that torchrun started.")]
SaveEvery = Annotated[float | None, typer.Option(min=0.0, help="Seconds between checkpoints on the way. [60]")]

Lora = Annotated[
    bool, typer.Option("--lora", help="Leave the model as it is (--model or --checkpoint), and train a small part.")]
Qlora = Annotated[bool, typer.Option("--qlora", help="As --lora, with the model's matrices in 4 bits (NF4).")]
Rank = Annotated[int | None, typer.Option(min=1, help=OfLora + "of each change of a matrix. [8]")]
Alpha = Annotated[float | None, typer.Option(help=OfLora + "a change counts alpha / rank times. [16]")]
Targets = Annotated[
    str | None, typer.Option(help=OfLora + "matrices to change, such as q_proj,v_proj. [all linear layers]")]
