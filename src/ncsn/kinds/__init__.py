"""Kinds of data: images and signals become tensors, and samples become files and pictures again."""
