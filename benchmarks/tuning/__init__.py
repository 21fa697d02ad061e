"""Finds the fastest way to run a network on this machine, among those whose answers are close enough.

A room for each stage: ``space``, what can be tried; ``judging``, what answers closely enough; ``racing``, what is fast; ``result``, the
winner and the rest.
"""
