"""Other runtimes beside this project: the same network, the same images, one run.

``python -m benchmarks.studies.peers`` makes an environment for each, converts the bundled weights with each one's own tools, and measures.
"""
