"""A model that answers in conversations, and asks a helper for the facts of its answers if it is to."""
