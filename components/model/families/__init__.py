"""Models whose folders were not written here."""
