"""Models of the library, a forward pass that computes what counts, copies of weights."""
