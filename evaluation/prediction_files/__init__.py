"""Readers of prediction files of any system, one format a file. `read.py` chooses the reader by the content."""
