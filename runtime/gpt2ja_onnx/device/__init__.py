"""Where a graph runs: the contract of a device, and the CPU and CUDA behind it."""
