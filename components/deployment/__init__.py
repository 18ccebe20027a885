"""The bundle that is registered, and the server that answers from it."""
