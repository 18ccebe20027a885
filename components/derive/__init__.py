"""From weights to weights: what makes a model of a model without training. One stage; a module for each way."""
