"""R-Drop: two passes with different dropout must agree (Liang, Wu, Li et al., NeurIPS 2021, arXiv:2106.14448).

>>> loss = r_drop_loss(torch.stack([logits_1, logits_2]), targets, alpha=5.0)      # Eq. 4
>>> records = run(EXPERIMENTS[0], resolve(EXPERIMENTS, "demo")["translation"], seeds=[1, 2, 3])
"""

from kdutils.papers import names_in

TITLE = "R-Drop: Regularized Dropout for Neural Networks"
CITATION = "Liang, Wu, Li, Wang, Meng, Qin, Chen, Zhang, Liu. NeurIPS 2021. arXiv:2106.14448"

__getattr__ = names_in(__name__, "objective", "method", "experiment", "claims")
