"""What runs above the stages: the command line, the servers."""
