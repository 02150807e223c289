"""The commands of `mlml`, one file each: `add_arguments` declares its options, `run` does it."""
