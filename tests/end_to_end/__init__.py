"""Whole flows, as a user runs them: the installed command, in processes of their own."""
