r"""DeepSeek-V2 and V3: multi-head latent attention, with RoPE on neighbouring features. Dense layers only.

The mixture of experts of these families (shared experts, groups, corrected scores) is not ours: a model is converted if
all its layers are dense, and refused otherwise.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from minillm.config import Mla
from minillm.layers.rope_layout import interleaved_to_half
from minillm.layers.rope_scaling import yarn_amplitude
from minillm.pretrained.llama import GATED, gated_ffn, llama_like
from minillm.pretrained.options import Options
from minillm.pretrained.rope import rope_option
from minillm.pretrained.weights import Move, Plan

LATENT_EPS = 1e-6  # of the norms on latents, whatever rms_norm_eps says


def deepseek_v2_plan(options: Options, state: Mapping[str, Tensor]) -> Plan:
    r"""The plan for DeepseekV2ForCausalLM.

    Args:
        options: of the model.
        state: its weights.
    Returns: which model to build and how to fill it.
    Raises:
        ValueError: naming an option that can't be honoured.
    """
    options.ignore("topk_method")
    return _plan(options, state, interleaved=True, mlp_bias=options["mlp_bias"])


def deepseek_v3_plan(options: Options, state: Mapping[str, Tensor]) -> Plan:
    r"""The plan for DeepseekV3ForCausalLM.

    Args:
        options: of the model.
        state: its weights.
    Returns: which model to build and how to fill it.
    Raises:
        ValueError: naming an option that can't be honoured.
    """
    options.ignore("num_nextn_predict_layers")  # further heads, of which the model itself has none
    return _plan(options, state, interleaved=options["rope_interleave"], mlp_bias=False)


def _plan(options: Options, state: Mapping[str, Tensor], interleaved: bool, mlp_bias: bool) -> Plan:
    n_layers, n_heads = options["num_hidden_layers"], options["num_attention_heads"]
    options.require(options["first_k_dense_replace"] >= n_layers, "first_k_dense_replace",
                    f"from there on layers are mixtures of a kind that we do not have; use {n_layers}, all layers")
    options.ignore("n_group", "n_routed_experts", "n_shared_experts", "norm_topk_prob", "num_experts_per_tok",
                   "moe_intermediate_size", "output_router_logits", "routed_scaling_factor", "topk_group")
    options.require(not options["attention_bias"], "attention_bias", "our latent attention has no biases; use False")
    options.require(options["num_key_value_heads"] == n_heads, "num_key_value_heads",
                    f"every head has its own key and value; use num_attention_heads={n_heads}")
    options.ignore("pretraining_tp", "qk_head_dim")  # how matrices were once cut up; a sum of two other options
    kv_rank, rope_dim, q_rank = options["kv_lora_rank"], options["qk_rope_head_dim"], options.get("q_lora_rank")
    plain_dim = options["qk_nope_head_dim"]
    attention = Mla(kv_rank, rope_dim, options["v_head_dim"], q_rank, _scale(options, plain_dim + rope_dim), LATENT_EPS)
    return llama_like(
        options, state, (*_attention(q_rank, n_heads, kv_rank, rope_dim if interleaved else 0), *GATED),
        attention=attention, head_dim=plain_dim, position=rope_option(options, rope_dim),
        ffn=gated_ffn(options, mlp_bias))


def _scale(options: Options, width: int) -> float | None:
    given = options["rope_parameters"]
    strength = given.get("mscale_all_dim")
    if given.get("rope_type", "default") == "default" or not strength:
        return None
    return width**-0.5 * yarn_amplitude(given["factor"], strength) ** 2


def _attention(q_rank: int | None, n_heads: int, kv_rank: int, rope_dim: int) -> list[Move]:
    theirs, ours = "model.layers.{i}.self_attn.", "blocks.{i}.attn."
    reorder_q = partial(_to_half, n_heads=n_heads, rope_dim=rope_dim)
    queries = [("q_proj", "q_proj", reorder_q)] if q_rank is None else [
        ("q_a_proj", "q_down", None), ("q_a_layernorm", "q_norm", None), ("q_b_proj", "q_up", reorder_q)]
    return [Move(theirs + source, ours + target, how) for source, target, how in (
        *queries,
        ("kv_a_proj_with_mqa", "kv_down", partial(_to_half, n_heads=1, rope_dim=rope_dim)),
        ("kv_a_layernorm", "kv_norm", None),
        ("kv_b_proj", "kv_up", None),
        ("o_proj", "o_proj", None))]


def _to_half(weight: Tensor, n_heads: int, rope_dim: int) -> Tensor:
    if rope_dim == 0:  # in our order already
        return weight
    by_head = weight.unflatten(0, (n_heads, -1))  # what is turned are the last rows of each head
    plain, turned = by_head.split([by_head.shape[1] - rope_dim, rope_dim], dim=1)
    turned = interleaved_to_half(turned.flatten(0, 1), n_heads).view_as(turned)
    return torch.cat([plain, turned], dim=1).flatten(0, 1)
