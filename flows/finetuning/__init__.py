"""The steps of flow ``finetune``: where it starts, and one module for each method."""
