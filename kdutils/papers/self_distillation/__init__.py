"""Self-Ensemble and Self-Distillation: a model's own earlier selves are its teacher (Xu et al., 2020).

>>> loss = sda_loss(logits, teacher_logits, targets, weight=1.0)
>>> teacher = average_parameters([model_1.state_dict(), model_2.state_dict()])
>>> records = run(EXPERIMENTS[0], resolve(EXPERIMENTS, "demo")["classification"], seeds=[1, 2, 3])
"""

from kdutils.papers import names_in

TITLE = "Improving BERT Fine-Tuning via Self-Ensemble and Self-Distillation"
CITATION = "Xu, Qiu, Zhou, Huang. 2020. arXiv:2002.10345"

__getattr__ = names_in(__name__, "objective", "window", "method", "experiment", "claims")
