"""The model: one forward for training and inference, numerically the published UniMedVL."""
