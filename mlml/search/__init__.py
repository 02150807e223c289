"""Search over the numbers of an experiment, one file per sampler; the file name is the name of the method."""
