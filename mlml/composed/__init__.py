"""Generative methods that stand on another trained one, one file each; the file name is the name of the method."""
