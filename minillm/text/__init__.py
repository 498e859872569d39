"""From text to token ids: tokenizers, the story language, real text and batches."""
