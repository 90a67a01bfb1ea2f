"""What a training is fed with: rows of files larger than memory, augmentation, weights. None of it needs torch."""
