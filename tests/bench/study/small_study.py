"""A network of a few weights for studies that take a moment, on the images of `tests.few_images`."""

NETWORK = "8C3-MP7-16FC-10"
