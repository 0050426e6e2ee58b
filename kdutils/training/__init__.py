"""One loop for all papers, what a paper may change of it, and checkpoints."""
