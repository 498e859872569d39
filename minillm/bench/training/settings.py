r"""The sizes at which the speed of training is measured."""

from dataclasses import dataclass

from minillm.config import AttentionOptions, Mlp, ModelConfig, Norm


@dataclass(frozen=True)
class Setting:
    r"""A model and a batch.

    Args:
        n_layers: L.
        n_heads: H.
        d_model: D.
        seq_len: T, tokens in a row.
        batch_size: B, rows.
    """

    n_layers: int
    n_heads: int
    d_model: int
    seq_len: int
    batch_size: int

    def config(self, vocab_size: int) -> ModelConfig:
        r"""The model: GPT-2's form with exact GELU, biases, a tied head and the peer's initialisation.

        Args:
            vocab_size: V.
        Returns: the configuration.
        """
        return ModelConfig(
            vocab_size=vocab_size, max_seq_len=self.seq_len, d_model=self.d_model, n_layers=self.n_layers,
            n_heads=self.n_heads, n_kv_heads=self.n_heads, head_dim=self.d_model // self.n_heads,
            ffn=Mlp(4 * self.d_model, "gelu", bias=True), norm=Norm("layer", bias=True),
            attention=AttentionOptions(qkv_bias=True, o_bias=True))


SETTINGS = {"small": Setting(4, 4, 128, 128, 32), "larger": Setting(6, 6, 384, 256, 8)}
