"""Synthetic data sets: drawn scenes with masks and questions."""
