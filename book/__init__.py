"""The published book: the notebooks with their outputs, the README in parts, and the modules from their docstrings."""
