"""Weights on disk: compact files that sfumato ships, and the checks that they are what they say."""
