"""The dynamic INT8 form of a network, as products of rows and matrices."""
