"""Measurements side by side: each prints a table and draws a sheet."""
