"""The closed world: invented people, places, works and events, their facts, and encyclopaedic prose that states them.

Its purpose is that every fact is known: which words of the corpus are factual, how often each fact is stated, and
what the right answer to a question is. ``write_world(WorldConfig(), folder)`` writes it.
"""
