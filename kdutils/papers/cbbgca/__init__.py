"""CBBGCA: a translator learns its unconfident words from a masked language model that sees both sides (ACL 2022).

>>> selected = select_unconfident(logits, targets, epsilon=0.2)                   # p(y_t) <= 0.2
>>> loss = cbbgca_loss(logits, targets, teacher_logits, selected, alpha=kd_weight(update=0, total=3200))
>>> records = run(EXPERIMENTS[0], resolve(EXPERIMENTS, "demo")["translation"], seeds=[1, 2, 3])
"""

from kdutils.papers import names_in

TITLE = "Confidence Based Bidirectional Global Context Aware Training Framework for Neural Machine Translation"
CITATION = "Zhou, Meng, Zhou, Zhang, Wang, Su. ACL 2022, pages 2878-2889. arXiv:2202.13663"

__getattr__ = names_in(__name__, "objective", "cmlm", "method", "experiment", "claims")
