"""Conversations: read, encoded as the server encodes them, and packed into shards with a mask of the assistant."""
