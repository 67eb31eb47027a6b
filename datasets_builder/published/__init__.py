"""Public data sets, one in a file. A new one also gets its name in `BUILDERS` of `datasets_builder/mixture.py`."""
