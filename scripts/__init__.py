"""Programs that create, check and publish checkpoints."""
