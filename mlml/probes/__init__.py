"""Probes of a frozen encoder, one file each; the file name is the name of the probe."""
