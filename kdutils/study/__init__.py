"""Method against baseline: experiments, what is kept of them, measures, claims."""
