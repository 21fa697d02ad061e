"""From a trained network to model files that are proven to behave like it."""
