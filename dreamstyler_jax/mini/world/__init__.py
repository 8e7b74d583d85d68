"""The world of the embedded model's pictures: scenes, painters, captions and the training set."""
