"""Finding passages of text by their words: for the helper that retrieves, and for judging facts by articles."""
