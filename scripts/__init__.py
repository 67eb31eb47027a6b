"""Programs that make, check and publish checkpoints."""
