"""Knowledge distillation in NLP, one paper at a time: the shared module of the notebooks."""

__version__ = "0.1.0"
