"""Tutor-KD: a tutor rewrites the masked words, easy for the teacher, hard for the student (Kim et al., EMNLP 2022).

>>> a = modified_teacher_logit(masked_logits, original, replaced)                 # min(1, p_T(x') / p_T(x))
>>> records = run(EXPERIMENTS[0], resolve(EXPERIMENTS, "demo")["masked_lm"], seeds=[1, 2, 3])
"""

from kdutils.papers import names_in

TITLE = "Tutoring Helps Students Learn Better: Improving Knowledge Distillation for BERT with Tutor Network"
CITATION = "Kim, Park, Lee, Mok, Choi, Lee. EMNLP 2022, pages 7371-7382. doi:10.18653/v1/2022.emnlp-main.498"

__getattr__ = names_in(__name__, "objective", "student", "method", "experiment", "claims")
