"""Evaluations of trained generators: every file without a leading underscore is one."""
