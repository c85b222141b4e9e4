"""Training: the staged curriculum on one process or on many under DeepSpeed ZeRO-3."""
