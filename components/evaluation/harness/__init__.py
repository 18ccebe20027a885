"""lm-evaluation-harness over our models: published tasks, each example kept."""
