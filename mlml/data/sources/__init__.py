"""Where images come from, one file a source; the file name is the name of the source."""
