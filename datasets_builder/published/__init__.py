"""Published data sets, one per file. To add one, also add its name to `BUILDERS` in `datasets_builder/mixture.py`."""
