"""Inpainting on scenes with a known truth: python -m sd2_family.benchmarks.inpainting"""
