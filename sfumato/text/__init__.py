"""Text: prompts to tokens (``tokens``) and to the states that condition a denoiser (``encoder``)."""
