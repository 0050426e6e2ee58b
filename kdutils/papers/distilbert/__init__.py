"""DistilBERT: a triple loss distils BERT into half its layers while pre-training (Sanh et al., 2019, arXiv:1910.01108).

>>> loss = triple_loss(z_student, z_teacher, targets, h_student, h_teacher, mask)          # 5 / 2 / 1, T = 2
>>> records = run(EXPERIMENTS[0], resolve(EXPERIMENTS, "demo")["masked_lm"], seeds=[1, 2, 3])
"""

from kdutils.papers import names_in

TITLE = "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter"
CITATION = "Sanh, Debut, Chaumond, Wolf. EMC2 workshop at NeurIPS 2019. arXiv:1910.01108"

__getattr__ = names_in(__name__, "objective", "method", "student", "experiment", "claims")
