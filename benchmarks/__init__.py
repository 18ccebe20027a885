"""The measured claims of the README, as commands: ``make bench``."""
