"""Other people's samplers, made to answer in our words: what sfumato's are compared with."""
