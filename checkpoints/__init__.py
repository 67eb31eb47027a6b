"""Load checkpoints and adapters, record training runs, and upload checkpoints to the Hub."""
