"""Where a value comes from: run, stage, commit, parameters and inputs, down to the raw data; and making it again."""
