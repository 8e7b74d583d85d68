"""Single files in the layout of the first training code: their tensors as the parts of a model."""
