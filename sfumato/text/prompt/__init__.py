"""The languages that prompts are written in: A1111's, ComfyUI's, compel's and none, read into one representation.

``parts`` says what a prompt is once it is read; ``a1111``, ``comfyui`` and ``compel`` read and write it, by the table
in ``dialects``; ``schedule`` says what holds at which step, ``chunks`` makes token ids and weights of it,
``weighting`` states; ``wildcards`` draws a prompt from a pattern first. docs/prompts.md has the grammars.
"""
