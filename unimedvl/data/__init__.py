"""Records to samples, samples to packed batches."""
