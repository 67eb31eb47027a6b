"""Scores of reasoning segmentation and the two evaluation protocols."""
