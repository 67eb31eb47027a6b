"""What is in a checkpoint's folder: open it, adapt it, record its training, upload it."""

from gemma_lisa.safety.quiet_libraries import quiet_libraries

quiet_libraries()  # before bitsandbytes and DeepSpeed are imported
