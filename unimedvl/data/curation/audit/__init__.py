"""Experts look at a sample of the corpus: one page that they fill, and what their ratings say (paper, A.3)."""
