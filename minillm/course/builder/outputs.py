r"""What the outputs of a notebook may hold, and when two runs count as the same."""

import base64
import io
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from nbformat import NotebookNode
from PIL import Image

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
IMAGES = ("image/png", "image/jpeg")
ALIKE = 0.02  # mean difference of two pictures, as a share of the range, below which they are one picture
BAR = re.compile(r"\d+%\||\d+(\.\d+)?(it|s|B|batch|step|token)s?/(s|it)\b|\d+it \[")
ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
TIMES = re.compile(r"\b\d[\d,]*(\.\d+)?\s*(ns|us|µs|ms|s|seconds?|min|minutes|it/s|tokens/s|GB/s|GFLOP/s|MB|GB)\b")


def tidy_outputs(notebook: NotebookNode) -> None:
    r"""Drop what only a live kernel can use and what a progress bar has written over; join text that came in pieces.

    How many pieces a text comes in depends on how busy the machine was.

    Args:
        notebook: just run; changed in place, since it is the builder's own.
    """
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if "outputs" in cell:
            cell.outputs = _joined(cell.outputs)
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET_VIEW, None)
            if output.output_type == "stream":
                output.text = "\n".join(_last_written(line) for line in output.text.split("\n"))


def complaints(notebook: NotebookNode, root: Path) -> list[str]:
    r"""Find what must not be published: paths of this machine, addresses of objects, warnings.

    Args:
        notebook: run and tidied.
        root: the folder of the project.
    Returns: a line for each, with the cell; empty if all is well.
    """
    found = []
    for number, cell in enumerate(notebook.cells, 1):
        place = f"cell {number} ({cell.id})"
        for output in cell.get("outputs", []):
            text = output_text(output)
            if output.output_type == "stream" and output.name == "stderr" and not _only_bars(output.text):
                found.append(f"{place}: writes to stderr: {_excerpt(output.text)}")
            for path in machine_paths(root):
                if re.search(re.escape(path) + r"(?![\w-])", text):
                    found.append(f"{place}: a path of this machine, {path}")
            if match := ADDRESS.search(text):
                found.append(f"{place}: an object's address, {match.group()}; print what matters of it instead")
            picture = any(kind in output.get("data", {}) for kind in IMAGES)
            if picture and not has_alt_text(output):
                found.append(f"{place}: a picture without alt text; show it with plots.show(figure, alt=...)")
    return found


def has_alt_text(output: NotebookNode) -> bool:
    r"""Whether a picture is also there for someone who does not see it.

    Args:
        output: one that holds a picture.
    Returns: True if there is a text that says more than what kind of object it is.
    """
    alt = output.get("metadata", {}).get("image/png", {}).get("alt", "")
    plain = output.get("data", {}).get("text/plain", "")
    return len(alt) >= 10 and bool(plain) and not plain.startswith("<")


def same_run(old: NotebookNode, new: NotebookNode) -> bool:
    r"""Whether a new run shows the same as an old one, but for times and progress bars.

    Args:
        old: the notebook as it was.
        new: the same lesson, built again.
    Returns: True if cells and metadata are equal and outputs alike.
    """
    if strip_outputs(old) != strip_outputs(new):
        return False
    pairs = zip(old.cells, new.cells, strict=True)
    return all(_alike(a.get("outputs", []), b.get("outputs", [])) for a, b in pairs)


def strip_outputs(notebook: NotebookNode) -> dict[str, Any]:
    r"""What a notebook is without having been run.

    Args:
        notebook: any.
    Returns: its metadata and its cells without outputs and counts.
    """
    keys = ("id", "cell_type", "source", "metadata")
    cells = [{key: cell[key] for key in keys} for cell in notebook.cells]
    return {"metadata": dict(notebook.metadata), "cells": cells}


def output_text(output: NotebookNode) -> str:
    r"""All text in an output, without colours.

    Args:
        output: of any kind.
    Returns: its text.
    """
    data = output.get("data", {})
    texts = [value for kind, value in data.items() if kind.startswith("text/") and isinstance(value, str)]
    texts += [output.get("text", ""), output.get("evalue", ""), *output.get("traceback", [])]
    return COLOURS.sub("", "\n".join(texts))


def machine_paths(root: Path) -> list[str]:
    r"""Folders whose names say on which machine a notebook was run.

    Args:
        root: the folder of the project.
    Returns: the paths, as text.
    """
    paths = [root.resolve(), Path.home(), Path(sys.prefix), Path(sys.base_prefix), Path(tempfile.gettempdir())]
    return sorted({str(path) for path in paths if len(path.parts) > 1})


def _joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    joined: list[NotebookNode] = []
    for output in outputs:
        if joined and output.output_type == "stream" and joined[-1].get("name") == output.name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def _last_written(line: str) -> str:
    parts = [part for part in line.split("\r") if part.strip()]
    return parts[-1] if parts else ""


def _only_bars(text: str) -> bool:
    return all(BAR.search(line) for line in re.split(r"[\r\n]", COLOURS.sub("", text)) if line.strip())


def _excerpt(text: str) -> str:
    return repr(text.strip()[:200])


def _alike(old: list[NotebookNode], new: list[NotebookNode]) -> bool:
    old, new = ([o for o in outputs if o.get("name") != "stderr"] for outputs in (old, new))
    if len(old) != len(new):
        return False
    for a, b in zip(old, new, strict=True):
        if a.output_type != b.output_type or set(a.get("data", {})) != set(b.get("data", {})):
            return False
        if TIMES.sub("TIME", output_text(a)) != TIMES.sub("TIME", output_text(b)):
            return False
        if a.get("metadata") != b.get("metadata"):
            return False
        if not all(_same_picture(a.data[kind], b.data[kind]) for kind in IMAGES if kind in a.get("data", {})):
            return False
    return True


def _same_picture(old: str, new: str) -> bool:
    if old == new:
        return True
    a, b = (np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"), float) for text in (old, new))
    return a.shape == b.shape and float(np.abs(a - b).mean()) / 255 < ALIKE
