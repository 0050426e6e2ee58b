"""From a source to batches: corpora, readers, tokens, batches."""
