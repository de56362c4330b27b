"""Families of models: each turns files into a Model."""
