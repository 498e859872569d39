r"""Seven models of six families over the same blocks, each trained for seconds on what it is for."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minillm.bench import echoes
from minillm.bench.variants import harness
from minillm.bench.variants.harness import Row
from minillm.config import (
    AttentionOptions,
    Ends,
    Glu,
    Init,
    Learned,
    Mlp,
    ModelConfig,
    Norm,
    Rope,
    Sinusoidal,
    T5Bias,
)
from minillm.config.positions import Position
from minillm.model.blank_filler import BlankFiller
from minillm.model.encoder_decoder import EncoderDecoder
from minillm.model.gpt import GPT
from minillm.model.masked_lm import MaskedLM
from minillm.model.two_streams import PermutationLM

STEPS = 300


def family_config(position: Position, **changes: Any) -> ModelConfig:
    r"""The size that all families share: two layers, 64 wide.

    Args:
        position: of the family.
        changes: other fields.
    Returns: the config.
    """
    sizes: dict[str, Any] = dict(
        vocab_size=echoes.VOCAB, max_seq_len=32, d_model=64, n_layers=2, n_heads=4, n_kv_heads=4, head_dim=16,
        ffn=Mlp(256), init=Init(0.1, 0.05, "zero"))
    return ModelConfig(position=position, **sizes | changes)


def fit(
    model: nn.Module, loss_of: Callable[[nn.Module, torch.Generator], Tensor], seed: int, steps: int = STEPS
) -> nn.Module:
    r"""Train a model on whatever its family predicts.

    Args:
        model: any of the families.
        loss_of: (model, generator) -> the loss on a fresh batch, a scalar.
        seed: of the batches.
        steps: of AdamW, the learning rate falling to 0 along a straight line.
    Returns: the model, in evaluation mode.
    """
    generator = torch.Generator().manual_seed(seed)
    # AdamW moves a number by about the learning rate a step. T5's biases are added to scores and need to become large.
    biases = [p for name, p in model.named_parameters() if "bias_rule" in name]
    others = [p for name, p in model.named_parameters() if "bias_rule" not in name]
    groups = [{"params": others, "peak": 6e-3}, {"params": biases, "peak": 6e-2}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * min(1.0, (step + 1) / 20) * (1 - step / steps)
        loss = loss_of(model, generator)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


Family = tuple[Callable[[], nn.Module], Callable[..., Tensor], Callable[..., Mapping[str, float]]]
BIASED = AttentionOptions(qkv_bias=True, o_bias=True)
FAMILIES: dict[str, Family] = {
    "GPT-2 (decoder)": (
        lambda: GPT(family_config(Learned(), ffn=Mlp(256, "gelu_tanh", True), attention=BIASED)),
        echoes.gpt_loss, echoes.gpt_measures),
    "LLaMA (decoder)": (
        lambda: GPT(family_config(Rope(), ffn=Glu(168), norm=Norm("rms", bias=False))),
        echoes.gpt_loss, echoes.gpt_measures),
    "BERT (encoder)": (
        lambda: MaskedLM(family_config(Learned(), ffn=Mlp(256, bias=True), attention=BIASED, residual="post",
                                       ends=Ends(embedding_norm=True, head_bias=True))),
        echoes.bert_loss, echoes.bert_measures),
    "Transformer (encoder-decoder)": (
        lambda: EncoderDecoder(family_config(Sinusoidal(), ffn=Mlp(256, "relu", True), residual="post",
                                             ends=Ends(embedding_scale=8.0), init=Init(0.1, 0.1, "plain"))),
        echoes.translation_loss, echoes.translation_measures),
    "T5 (encoder-decoder)": (
        lambda: EncoderDecoder(family_config(T5Bias(64, 64), ffn=Mlp(256, "relu"), norm=Norm("rms", bias=False),
                                             init=Init(0.1, 0.1, "plain"))),
        echoes.t5_loss, echoes.t5_measures),
    "GLM (prefix LM)": (
        lambda: BlankFiller(family_config(Learned()), max_span_len=2),
        echoes.glm_loss, echoes.glm_measures),
    "XLNet (permutation LM)": (
        lambda: PermutationLM(family_config(Learned(), ffn=Mlp(256, "gelu"))),
        echoes.xlnet_loss, echoes.xlnet_measures),
}


def measure_family(family: Family, seed: int) -> dict[str, float]:
    r"""Train one family and measure it on fresh texts.

    Args:
        family: how to make it, its loss, its measures.
        seed: of weights and texts.
    Returns: measure -> nats; `steps` of training among them.
    """
    make, loss_of, measures = family
    torch.manual_seed(seed)  # the fresh weights come from torch's own generator
    model = fit(make(), loss_of, seed)
    with torch.inference_mode():
        return dict(measures(model, torch.Generator().manual_seed(seed + 10_000)))


def families_table(seeds: Sequence[int]) -> list[Row]:
    r"""Every family with every seed.

    Args:
        seeds: of the runs.
    Returns: a row a family: nats a symbol for a `hole` in the first half, the `echo`, or the `translation`.
    """
    return harness.run_table("families", FAMILIES, seeds, measure_family)
