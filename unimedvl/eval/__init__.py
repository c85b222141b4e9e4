"""Evaluation: rows of a benchmark to predictions, and predictions to scores."""
