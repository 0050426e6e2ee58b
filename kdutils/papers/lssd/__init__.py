"""LSSD: each language's best past student teaches the present one (Huang, Feng, Geng, Qin, 2022, arXiv:2205.01620).

>>> loss = lssd_loss(logits, targets, teacher_logits, weight=2.5, kind="adaptive")
>>> records = run(EXPERIMENTS[0], resolve(EXPERIMENTS, "demo")["many_to_one"], seeds=[1, 2, 3])
"""

from kdutils.papers import names_in

TITLE = "Unifying the Convergences in Multilingual Neural Machine Translation"
CITATION = "Huang, Feng, Geng, Qin. EMNLP 2022, pages 6822-6835. arXiv:2205.01620"

__getattr__ = names_in(__name__, "objective", "schedule", "method", "individual", "convergence", "experiment", "claims")
