"""Readers of the user's own data."""
