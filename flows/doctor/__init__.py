"""``lacewing doctor``: looks for every known trap of the stack on this machine, and says how to get out of it.

What is damaged may be any package that the rest of Lacewing takes for granted. So the modules here import at their top
nothing but the standard library and what keeps to it; a check that misses a package becomes a fault of that check.
"""
