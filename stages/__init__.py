"""Stages of dvc.yaml: each module reads the declaration, runs one Prefect flow and writes its outputs."""
