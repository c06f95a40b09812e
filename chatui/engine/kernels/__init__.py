"""What PyTorch is slow at on a CPU: C++ kernels, and the layers of 4-bit levels that use them."""
