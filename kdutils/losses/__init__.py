"""Divergences, distillation, and both behind a vocabulary projection: logits in, one number out."""
