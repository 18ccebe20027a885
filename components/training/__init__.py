"""The training loop: Lightning Trainer over plain torch modules, with a deterministic loader."""
