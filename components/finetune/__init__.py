"""Finetuning: from a trained model to a model for a purpose. One folder for each method."""
