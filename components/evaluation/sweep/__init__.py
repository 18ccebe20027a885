"""A sweep: settings tried side by side, and what came of them."""
