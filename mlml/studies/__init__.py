"""Studies of a trained experiment, one file each; the file name is the name of the method."""
