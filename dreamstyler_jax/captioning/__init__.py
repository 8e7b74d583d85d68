"""Captions for training pictures: what a picture shows apart from its style (Ahn et al. 2024, section 3.2)."""
