"""Tests of noise, and a script that compares with a CUDA device."""
