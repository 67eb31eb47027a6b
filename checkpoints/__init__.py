"""What is in a checkpoint's folder: open it, adapt it, record its training, upload it."""
