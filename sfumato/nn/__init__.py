"""Networks and their blocks: torch modules that know nothing of diffusion, families or files."""
