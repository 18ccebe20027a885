"""The cascade before a server that somebody else runs: vLLM, SGLang or llama.cpp writes, and stops where it calls."""
