"""Weights on disk: published files under others' names, compact files of our own, and the checks of both."""
