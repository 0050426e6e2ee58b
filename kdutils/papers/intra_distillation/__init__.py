"""Intra-Distillation: K passes with other dropout must agree, so that every parameter counts (Xu et al., EMNLP 2022).

>>> loss = intra_distillation_loss(torch.stack([logits_1, logits_2, logits_3]), targets, alpha=5.0)
>>> adaptive_alpha(update=5_000, total=50_000, alpha=5.0, p=5.0, q=10.0)
1.0
>>> records = run(EXPERIMENTS[0], resolve(EXPERIMENTS, "demo")["translation"], seeds=[1, 2, 3])
"""

from kdutils.papers import names_in

TITLE = "The Importance of Being Parameters: An Intra-Distillation Method for Serious Gains"
CITATION = "Xu, Koehn, Murray. EMNLP 2022. arXiv:2205.11416"

__getattr__ = names_in(__name__, "objective", "sensitivity", "method", "experiment", "claims")
