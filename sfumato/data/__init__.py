"""Pictures with captions: readers, augmentation, the default corpus and what ``sfumato data`` does with them.

::

    record.py     Record, what is known of one picture; parsing of JSON lines
    pictures.py   PictureSet, the protocol of all readers, and open_pictures(path), which picks one
    tar.py        a tar with a JSON-lines file beside it      folder.py  pictures with captions in a folder
    idx.py        the IDX files of the MNIST family           decode.py  bytes of one picture to an array
    compose.py    backgrounds, shifts, flips, captions: what training draws anew for each look at a picture
    emoji/        the default corpus, built again from registry packages
    commands.py   describe, check, sheet, build_emoji: what the command line calls

All randomness comes from a numpy Generator that the caller passes; pictures are uint8 arrays.
"""
