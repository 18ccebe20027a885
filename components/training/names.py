"""What the two trainings are called where people read.

Both seal metrics of the same names, so whatever shows a loss or a number of tokens says of which training it speaks.
"""

TRAININGS = {
    "pretrain": "pretraining",
    "delegate": "delegation",
    "prefer": "preference tuning",
    "distill": "distillation",
}
"""Name of the training by its stage."""
