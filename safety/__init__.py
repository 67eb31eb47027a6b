"""Shared by all programs: bounded parsing, atomic writes, protection of secrets, and errors of one line."""
