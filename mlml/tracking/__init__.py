"""Records of runs, local first, and how they reach MLflow."""
