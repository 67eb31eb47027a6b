"""Cache of the features of images: what the frozen encoders return, computed once and stored on disk."""
