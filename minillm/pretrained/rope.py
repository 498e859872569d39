r"""RoPE as a Hugging Face configuration describes it: base, share of the features, and every scaling type."""

from collections.abc import Callable, Mapping
from typing import Any

from minillm.config import DynamicNtk, Llama3Scaling, LongRope, PositionInterpolation, Proportional, Rope, Yarn
from minillm.config.scaling import Scaling
from minillm.layers.rope_scaling import longrope_amplitude, yarn_amplitude
from minillm.model.rotation import scaled_inv_freq
from minillm.pretrained.options import Options

# Rotary models have no table of positions, and Hugging Face runs them on texts of any length; so do we. How well they
# do beyond the length they were trained on is another question.
ANY_LEN = 2**20

KEYS = frozenset((
    "rope_type", "type", "rope_theta", "partial_rotary_factor", "factor", "original_max_position_embeddings",
    "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate", "short_factor",
    "long_factor", "low_freq_factor", "high_freq_factor",
))  # fmt: skip


def rope_option(options: Options, width: int, partial: bool = False) -> Rope:
    r"""The rotation that the option `rope_parameters` describes.

    Args:
        options: of the model.
        width: features of a head that can be turned.
        partial: whether this family turns a share of the features where `partial_rotary_factor` says so.
    Returns: our type.
    Raises:
        ValueError: naming `rope_parameters`, if something in it is unknown or makes no rotation.
    """
    given = options["rope_parameters"]
    kind, base = given.get("rope_type") or given.get("type") or "default", given.get("rope_theta")
    unknown = sorted(set(given) - KEYS)
    options.require(not unknown, "rope_parameters", f"the converter does not know {', '.join(unknown)}")
    options.require(kind in SCALING_OF, "rope_parameters", f"rope_type: use one of {', '.join(SCALING_OF)}")
    share = given.get("partial_rotary_factor")
    share = 1.0 if share is None else share
    if kind == "proportional":
        share = 1.0  # the scaling itself holds the share
    options.require(share == 1 or partial, "rope_parameters",
                    f"partial_rotary_factor: {options.family} turns all features of a head, use 1.0 or leave it out")
    turned = int(width * share)
    options.require(turned >= 2 and turned % 2 == 0, "rope_parameters",
                    f"{turned} of {width} features of a head would be turned: RoPE turns pairs, use an even number "
                    "of at least 2 (partial_rotary_factor, head_dim)")
    try:
        position = Rope(float(base), float(share), SCALING_OF[kind](given, options))
        for seq_len in (1, ANY_LEN):  # before and beyond original_max_position_embeddings
            scaled_inv_freq(position, turned, seq_len)
    except (ValueError, TypeError, KeyError, RuntimeError, ArithmeticError) as error:
        options.refuse("rope_parameters", f"no rotation comes of this ({error})")
    return position


def _plain(given: Mapping[str, Any], options: Options) -> None:
    return None


def _linear(given: Mapping[str, Any], options: Options) -> Scaling:
    return PositionInterpolation(float(given["factor"]))


def _dynamic(given: Mapping[str, Any], options: Options) -> Scaling:
    return DynamicNtk(float(given["factor"]), options["max_position_embeddings"])


def _yarn(given: Mapping[str, Any], options: Options) -> Scaling:
    factor, amplitude = _factor(given, options), given.get("attention_factor")
    if amplitude is None and given.get("mscale") and given.get("mscale_all_dim"):
        amplitude = yarn_amplitude(factor, given["mscale"]) / yarn_amplitude(factor, given["mscale_all_dim"])
    return Yarn(factor, given["original_max_position_embeddings"], float(given.get("beta_fast") or 32),
                float(given.get("beta_slow") or 1), amplitude, given.get("truncate", True))


def _llama3(given: Mapping[str, Any], options: Options) -> Scaling:
    return Llama3Scaling(float(given["factor"]), float(given["low_freq_factor"]), float(given["high_freq_factor"]),
                         given["original_max_position_embeddings"])


def _longrope(given: Mapping[str, Any], options: Options) -> Scaling:
    original, amplitude = given["original_max_position_embeddings"], given.get("attention_factor")
    if amplitude is None:
        amplitude = longrope_amplitude(_factor(given, options), original)
    short, long = (tuple(map(float, given[name])) for name in ("short_factor", "long_factor"))
    return LongRope(short, long, original, float(amplitude))


def _proportional(given: Mapping[str, Any], options: Options) -> Scaling:
    return Proportional(float(given.get("partial_rotary_factor", 1)), float(given.get("factor", 1)))


def _factor(given: Mapping[str, Any], options: Options) -> float:
    factor = given.get("factor")
    return float(
        options["max_position_embeddings"] / given["original_max_position_embeddings"] if factor is None else factor)


SCALING_OF: dict[str, Callable[[Mapping[str, Any], Options], Scaling | None]] = {
    "default": _plain, "linear": _linear, "dynamic": _dynamic, "yarn": _yarn, "longrope": _longrope,
    "llama3": _llama3, "proportional": _proportional,
}  # fmt: skip
