"""What the paper on self-distillation claims, as statements that can fail."""

CLAIMS = ()
