"""How good a model is, what its report looks like, and whether it may replace the champion."""
