"""Scores of reasoning segmentation, and the two ways to evaluate."""
