"""Kernels compiled on first use where there is a compiler, each beside the plain torch it must agree with."""
