"""Key tables of the published networks: our names, the authors' original ones, and diffusers' (or transformers')."""
