r"""Mixtral: LLaMA with a mixture of experts in place of the FFN."""

from collections.abc import Mapping

from torch import Tensor

from minillm.config import AttentionOptions, Experts
from minillm.pretrained.llama import HEADS, llama_like
from minillm.pretrained.options import Options
from minillm.pretrained.parts import activation_option, window_option
from minillm.pretrained.weights import Move, Plan


def mixtral_plan(options: Options, state: Mapping[str, Tensor]) -> Plan:
    r"""The plan for MixtralForCausalLM.

    Args:
        options: of the model.
        state: its weights.
    Returns: which model to build and how to fill it.
    Raises:
        ValueError: naming an option that can't be honoured.
    """
    n_experts, top_k = options["num_local_experts"], options["num_experts_per_tok"]
    options.require(1 <= top_k <= n_experts, "num_experts_per_tok", f"use 1 to num_local_experts={n_experts}")
    options.ignore("router_aux_loss_coef", "router_jitter_noise", "output_router_logits")  # for training only
    experts = Experts(n_experts, top_k, options["intermediate_size"], activation_option(options))
    return llama_like(options, state, HEADS + expert_moves(n_experts), ffn=experts,
                      attention=AttentionOptions(window=window_option(options)))


def expert_moves(n_experts: int) -> tuple[Move, ...]:
    r"""Where the weights of a router and its experts go: theirs lie in two blocks, ours are a GLU each.

    Args:
        n_experts: E.
    Returns: the moves of a layer.
    """
    experts = [f"blocks.{{i}}.ffn.experts.{number}" for number in range(n_experts)]
    return (
        Move("model.layers.{i}.mlp.gate", "blocks.{i}.ffn.router"),
        Move("model.layers.{i}.mlp.experts.gate_up_proj",
             " ".join(f"{expert}.{part}_proj" for expert in experts for part in ("gate", "up")),
             lambda block: [half for weight in block for half in weight.chunk(2)]),
        Move("model.layers.{i}.mlp.experts.down_proj", " ".join(f"{expert}.down_proj" for expert in experts), list),
    )
