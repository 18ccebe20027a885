"""What the files of a closed world are called, and the folder that holds them."""

WORLD_FOLDER = "world"
"""The folder itself, among the gathered sources."""
DOCUMENTS, FACTS, QUESTIONS = "documents.jsonl", "facts.jsonl", "questions.jsonl"
