"""Scores of painted pictures: how well they match their prompts and the styles that they are painted in.

Four need no further network than a CLIP, and go from 0 to 100 (Ahn et al. 2024, section 4.1):

* text: the picture against its prompt without the style;
* image: the picture against the style's training picture, in everything that CLIP sees;
* style: the picture against the style's training picture, in colours and brushwork alone;
* leakage, where low is good: whether the picture shows what the training picture shows instead of its own prompt.

`score_table.SCORES` lists them and those by other networks, `checkpoints.CHECKPOINTS` these networks. If a style has
several training pictures, or a picture several styles, the scores are means over all of them.
"""
