"""How good pictures are: feature distances to real pictures, and a blind naming test.

``features`` turns pictures into EfficientNet-Lite0 features, ``moments`` and ``frechet`` give the Frechet
distance (FD-EffNetLite0: never to be called FID, which means another network), ``kernel`` gives KID,
``score`` runs them on a folder, and ``judge`` makes and scores sheets on which somebody names pictures
without their prompts. Nothing here is imported by sampling or serving.
"""
