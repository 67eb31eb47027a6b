"""Read data sets into rows, and turn rows into training and evaluation samples."""
