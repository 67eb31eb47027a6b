"""Read the checkpoints that a new Gemma-LISA is made of: Gemma 3, a vision encoder, and SAM."""
