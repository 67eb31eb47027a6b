"""Load checkpoints and adapters, record training runs, and upload checkpoints to the Hub."""

from gemma_lisa.safety.quiet_libraries import quiet_libraries

quiet_libraries()  # before bitsandbytes and DeepSpeed are imported
