"""Speed of sfumato beside its peers: one command each, both measured in the same run."""
