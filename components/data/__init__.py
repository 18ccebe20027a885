"""From sources to packed, memory-mapped token shards."""
