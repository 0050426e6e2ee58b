"""Seer Forcing: a decoder that sees the future words teaches the one that cannot (Feng et al., 2021, arXiv:2106.06751).

>>> loss = seer_loss(torch.stack([conventional_logits, seer_logits]), targets, alpha=0.5)
>>> records = run(EXPERIMENTS[0], resolve(EXPERIMENTS, "demo")["translation"], seeds=[1, 2, 3])
"""

from kdutils.papers import names_in

TITLE = "Guiding Teacher Forcing with Seer Forcing for Neural Machine Translation"
CITATION = "Feng, Gu, Guo, Yang, Shao. ACL-IJCNLP 2021, pages 2862-2872. arXiv:2106.06751"

__getattr__ = names_in(__name__, "objective", "decoder", "method", "experiment", "claims")
