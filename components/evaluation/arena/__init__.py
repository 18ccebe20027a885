"""Models against each other: both write to the same prompts, and a judge says who did better."""
