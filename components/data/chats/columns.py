"""The columns beside packed conversations, bits all."""

ASSISTANT = "assistant"
"""The assistant writes the token."""
LEARNT = "learnt"
"""The token is learnt: the assistant writes it, or it is replayed from the pretraining."""
STATED = "stated"
"""The token is replayed, and states a fact by the labels of the pretraining."""
