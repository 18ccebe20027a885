"""The decoder: its shape, its forward pass, its files, and how it generates."""
