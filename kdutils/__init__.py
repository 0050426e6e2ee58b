"""Knowledge distillation in NLP, one paper at a time: the shared module of the notebooks.

papers     a folder a paper: objective, method, experiment, claims
notebook   what notebooks show: sources, proofs of agreement, figures, tables, the board
study      method against baseline: trained once, kept, measured, graded
tasks      what can be learnt, and its scores
training   one loop for all papers; checkpoints
data       corpora, tokenizers, batches
models     models of the library, forward passes, copies of weights
losses     divergences and distillation: logits in, one number out
grammar    the embedded corpus
core       errors, files, settings, the machine, progress

A module imports from its own wing and from those below it, never from above.
"""

import os

# torch's CPU threads spin while they wait for each other. On a busy machine that makes a small model ten times
# slower; sleeping costs little elsewhere. It has an effect only before torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
