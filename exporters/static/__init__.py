"""Static INT8: ranges of activations fixed beforehand, from calibration images."""
