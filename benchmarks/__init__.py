"""Measuring: how fast and how accurate a model is beside the PyTorch original, in a form that others can check."""
