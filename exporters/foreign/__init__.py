"""Anybody's ONNX file -> a graph that can be worked on, with the same answers."""
