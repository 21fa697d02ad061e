"""A module for each runtime, imported in the environment that has it.

Each has ``convert(form, materials)``, which makes the files of a form with the runtime's own tools and returns them, the one to open first;
and ``load(form, path, threads)``, which opens it and returns what turns one image, uint8 (1, height, width, channels), into logits,
float32 (classes,). Normalization is part of the work.
"""
