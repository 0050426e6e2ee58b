"""Knowledge distillation in NLP, one paper at a time: the shared module of the notebooks."""

import os

# torch's CPU threads spin while they wait for each other. On a busy machine that makes a small model ten times
# slower; sleeping costs little elsewhere. It has an effect only before torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
