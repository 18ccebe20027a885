"""Distillation: a student learns what a teacher expects after every token, not only what came."""
