"""The CUDA execution provider."""
