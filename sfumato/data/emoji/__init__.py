"""The default corpus, drawn again from registry packages: one concept in up to nine styles.

::

    packages.py   the pinned npm packages, fetched once, checked by hash, read without unpacking
    names.py      what each emoji is called, and the captions made of that
    sets.py       the nine drawing styles, and which picture of each shows what
    render.py     one drawing to lossless WebP bytes (worker processes do this)
    splits.py     train, val, test_style and test_concept, and the weights
    build.py      all of it, in order, to emoji-128.tar and emoji.jsonl
"""
